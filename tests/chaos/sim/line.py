"""The ways of a simulated client to its session: through the gateway, and to the node itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

import aiohttp

from kato_gateway.domain.errors import GatewayError
from kato_gateway.sessions.creating import CreateSession
from kato_node.wire import headers, logs
from tests.chaos.client import Broken
from tests.chaos.model import Answer
from tests.chaos.operations import Op
from tests.chaos.plan import SessionPlan
from tests.chaos.sim.network import Reply, Request, served
from tests.chaos.sim.world import Gateway, World

T = TypeVar("T")

CALL_TIMEOUT_S = 70.0
DOORS = ("gateway", "gateway", "node")
_NOT_THERE = frozenset({"SESSION_NOT_FOUND", "WRONG_NODE", "PROCESSOR_FENCED", "RUNTIME_UNAVAILABLE"})


class SimLine:
    """One client's."""

    def __init__(self, world: World, door: str) -> None:
        self._world = world
        self._door: Literal["gateway", "node"] = "node" if door == "node" else "gateway"
        self._port: int | None = None

    async def call(self, session: SessionPlan, op: Op, key: str) -> Answer:
        """See Line."""
        try:
            async with asyncio.timeout(self._world.hurry_s or CALL_TIMEOUT_S):
                return await self._called(session, op, key)
        except TimeoutError:
            raise Broken from None

    async def _called(self, session: SessionPlan, op: Op, key: str) -> Answer:
        gateway = self._world.gateway
        if gateway is None or not gateway.process.alive:
            raise Broken
        if op.kind == "create":
            self._port = None
            wanted = CreateSession(
                session_id=session.session_id, node_id=session.processor_id, config=op.body, ttl_seconds=100_000.0
            )
            return await self._controlled(gateway, gateway.lifecycle.create(wanted))
        if op.kind == "end":
            return await self._controlled(gateway, gateway.lifecycle.end(session.session_id))
        request = _request(session, op, key)
        if self._door == "node":
            return await self._direct(gateway, session, request)
        return await self._forwarded(gateway, request)

    async def _controlled(self, gateway: Gateway, work: Coroutine[Any, Any, object]) -> Answer:
        try:
            await self._in(gateway, work)
        except GatewayError as error:
            return Answer(code=error.code)
        return Answer()

    async def _forwarded(self, gateway: Gateway, request: Request) -> Answer:
        logs.context.set({"request_id": "chaos"})
        try:
            reply = await self._in(gateway, _plane(gateway, request))
        except GatewayError as error:
            return Answer(code=error.code)
        return _answer(reply)

    async def _direct(self, gateway: Gateway, session: SessionPlan, request: Request) -> Answer:
        if self._port is None:
            try:
                route = await self._in(gateway, gateway.lifecycle.resolve(session.session_id))
            except GatewayError as error:
                return Answer(code=error.code)
            self._port = route.address.port
        try:
            answer = _answer(await self._world.network.exchange(self._port, request))
        except aiohttp.ClientError:
            self._port = None
            raise Broken from None
        if answer.code in _NOT_THERE:  # whoever listens there now is somebody else, or about to leave
            self._port = None
            raise Broken
        return answer

    async def _in(self, gateway: Gateway, work: Coroutine[Any, Any, T]) -> T:
        """Have the gateway's process do it; what dies with it has no answer."""
        task = gateway.process.run(work)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled() or not gateway.process.alive:
            raise Broken
        if self._world.answers_lost:
            self._world.answers_lost -= 1
            task.exception()
            raise Broken
        return task.result()


async def _plane(gateway: Gateway, request: Request) -> Reply:
    reply = await served(gateway.process, gateway.plane, request)
    if reply is None:
        raise asyncio.CancelledError
    return reply


def _request(session: SessionPlan, op: Op, key: str) -> Request:
    sent = [(headers.SESSION, session.session_id), ("host", "127.0.0.1")]
    if op.spelling.keyed:
        sent.append((headers.IDEMPOTENCY_KEY, key))
    body: dict[str, Any] = {"genes": op.body} if op.kind == "genes" else dict(op.body)
    return Request(
        method=op.spelling.method,
        target=f"/sessions/{session.session_id}{op.tail}",
        headers=[(name.encode(), value.encode()) for name, value in sent],
        body=json.dumps(body).encode() if op.spelling.method in {"POST", "PUT"} else b"",
    )


def _answer(reply: Reply) -> Answer:
    body = json.loads(reply.body)
    return Answer(code=body["error"]["code"]) if "error" in body else Answer(body=body)

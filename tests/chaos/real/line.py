"""The ways of a client to its session in a real installation: HTTP and WebSocket through the gateway, and the node."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from kato_node.wire import headers
from tests.chaos.client import Broken
from tests.chaos.model import Answer
from tests.chaos.operations import Op
from tests.chaos.plan import SessionPlan

DOORS = ("http", "http", "socket", "node")
DOORS_OF_CONTAINERS = ("http", "http", "socket")  # their nodes ask for a session's token
CALL_TIMEOUT_S = 20.0
_NOT_THERE = frozenset({"SESSION_NOT_FOUND", "WRONG_NODE", "PROCESSOR_FENCED", "RUNTIME_UNAVAILABLE", "NOT_FOUND"})
_BROKEN = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class RealLine:
    """One client's.

    Attributes:
        answers_lost: how many answers from now on it is to take for lost.
        hurry_s: how long it waits for an answer; None: long.
    """

    def __init__(self, url: str, door: str, http: aiohttp.ClientSession) -> None:
        self.answers_lost = 0
        self.hurry_s: float | None = None
        self._url = url
        self._door = door
        self._http = http
        self._node: str | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def call(self, session: SessionPlan, op: Op, key: str) -> Answer:
        """See Line."""
        try:
            async with asyncio.timeout(self.hurry_s or CALL_TIMEOUT_S):
                answer = await self._called(session, op, key)
        except _BROKEN as error:
            await self.close()
            raise Broken from error
        if self.answers_lost:
            self.answers_lost -= 1
            raise Broken
        return answer

    async def close(self) -> None:
        """Let go of what it holds."""
        self._node = None
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def _called(self, session: SessionPlan, op: Op, key: str) -> Answer:
        if op.kind == "create":
            await self.close()
            body = {
                "session_id": session.session_id,
                "node_id": session.processor_id,
                "config": op.body,
                "ttl_seconds": 100_000,
            }
            return _told(await self._request("POST", f"{self._url}/sessions", json=body))
        if op.kind == "end":
            return _told(await self._request("DELETE", f"{self._url}/sessions/{session.session_id}"))
        if self._door == "socket" and op.spelling.message is not None:
            return await self._over_socket(session, op, key)
        if self._door == "node":
            return await self._direct(session, op, key)
        return await self._over_http(f"{self._url}/sessions/{session.session_id}", op, key)

    async def _over_http(self, base: str, op: Op, key: str) -> Answer:
        sent = {headers.IDEMPOTENCY_KEY: key} if op.spelling.keyed else {}
        body = {"json": _body(op)} if op.spelling.method in {"POST", "PUT"} else {}
        return _answer(await self._request(op.spelling.method, base + op.tail, headers=sent, **body))

    async def _direct(self, session: SessionPlan, op: Op, key: str) -> Answer:
        if self._node is None:
            self._node = await self._where(session)
        answer = await self._over_http(f"{self._node}/sessions/{session.session_id}", op, key)
        if answer.code in _NOT_THERE:  # whoever listens there now is somebody else, or about to leave
            self._node = None
            raise Broken
        return answer

    async def _where(self, session: SessionPlan) -> str:
        """Return where the session's node is, woken if it sleeps. Raises: Broken."""
        await self._request("GET", f"{self._url}/sessions/{session.session_id}/stm")
        known = await self._request("GET", f"{self._url}/sessions/{session.session_id}")
        url = known.get("external_url")
        if not url:
            raise Broken
        return str(url)

    async def _over_socket(self, session: SessionPlan, op: Op, key: str) -> Answer:
        if self._socket is None:
            url = f"{self._url.replace('http', 'ws', 1)}/sessions/{session.session_id}/ws"
            self._socket = await self._http.ws_connect(url)
        await self._socket.send_json({"type": op.spelling.message, "payload": dict(op.body), "id": key})
        async for message in self._socket:
            told = json.loads(message.data)
            if told.get("id") == key:
                data: dict[str, Any] = told["data"]
                return Answer(code=data["code"]) if told["type"] == "error" else Answer(body=data)
        raise aiohttp.ServerDisconnectedError

    async def _request(self, method: str, url: str, **kinds: Any) -> dict[str, Any]:
        async with self._http.request(method, url, **kinds) as reply:
            return dict(await reply.json(content_type=None))


def _body(op: Op) -> dict[str, Any]:
    return {"genes": dict(op.body)} if op.kind == "genes" else dict(op.body)


def _answer(body: dict[str, Any]) -> Answer:
    return Answer(code=body["error"]["code"]) if "error" in body else Answer(body=body)


def _told(body: dict[str, Any]) -> Answer:
    return Answer(code=body["error"]["code"]) if "error" in body else Answer()

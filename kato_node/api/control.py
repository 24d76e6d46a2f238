"""The control routes (wire.control): for the gateway alone. Without the node's secret they do not exist."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from kato_node.node import BindSpec, Node, Opening, resident_bytes
from kato_node.service import SessionView
from kato_node.wire import headers
from kato_node.wire.control import BindReply, BindRequest, Identity, OpenSession, SessionInfo, SetConfig, Vitals
from kato_node.wire.errors import InvalidRequest
from kato_node.wire.web import json_response, parsed

Endpoint = Callable[[Request], Awaitable[Response]]


def control_routes(node: Node, secret: str) -> list[BaseRoute]:
    """Return the control routes of a node, open to whoever knows the secret."""
    control = _Control(node)
    table: list[tuple[str, str, Endpoint]] = [
        ("POST", "/control/bind", control.bind),
        ("GET", "/control/identity", control.identity),
        ("GET", "/control/vitals", control.vitals),
        ("POST", "/control/sessions", control.open_session),
        ("GET", "/control/sessions/{id}", control.session),
        ("POST", "/control/sessions/{id}/config", control.configure),
        ("DELETE", "/control/sessions/{id}", control.close_session),
        ("POST", "/control/drain", control.drain),
    ]
    return [_SecretRoute(path, endpoint, method=method, secret=secret) for method, path, endpoint in table]


def is_control(scope: Scope, secret: str | None) -> bool:
    """Whether the request may use the control routes; compared in constant time."""
    if secret is None:
        return False
    given = Headers(scope=scope).get(headers.NODE_SECRET, "")
    return hmac.compare_digest(given.encode(), secret.encode())


class _SecretRoute(Route):
    """A route that matches nothing for a request without the secret: such a request meets an unknown route."""

    def __init__(self, path: str, endpoint: Endpoint, *, method: str, secret: str) -> None:
        super().__init__(path, endpoint, methods=[method])
        self._secret = secret

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path for those who know the secret."""
        match, child = super().matches(scope)
        return (match, child) if match is not Match.NONE and is_control(scope, self._secret) else (Match.NONE, {})


class _Control:
    """The control calls of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._draining: asyncio.Task[None] | None = None

    async def bind(self, request: Request) -> Response:
        wanted = parsed(BindRequest, await request.body())
        spec = BindSpec(
            processor_id=wanted.processor_id,
            idle_timeout_s=wanted.idle_timeout_s,
            session=None if wanted.session is None else _opening(wanted.session),
            own_session=wanted.own_session,
            ended_sessions=tuple((ended.session_id, ended.incarnation) for ended in wanted.ended_sessions),
            purge=wanted.purge,
            token_key=wanted.token_key,
        )
        view = await self._node.bind(spec)
        session = None if view is None else _info(view)
        return json_response(BindReply(identity=self._identity(), session=session).model_dump())

    async def identity(self, _request: Request) -> Response:
        self._node.await_bind()
        return json_response(self._identity().model_dump())

    async def vitals(self, _request: Request) -> Response:
        vitals = Vitals(memory_bytes=resident_bytes(), idle_s=self._node.idle_s)
        return json_response(vitals.model_dump())

    async def open_session(self, request: Request) -> Response:
        wanted = parsed(OpenSession, await request.body())
        async with self._node.operation():
            view = await self._node.service.open_session(
                wanted.session_id, incarnation=wanted.incarnation, overrides=wanted.config
            )
        return json_response(_info(view).model_dump())

    async def session(self, request: Request) -> Response:
        return json_response(_info(await self._node.reads.session(request.path_params["id"])).model_dump())

    async def configure(self, request: Request) -> Response:
        wanted = parsed(SetConfig, await request.body())
        session_id = request.path_params["id"]
        async with self._node.operation():
            await self._node.service.update_genes(session_id, wanted.config)
            return json_response(_info(await self._node.reads.session(session_id)).model_dump())

    async def close_session(self, request: Request) -> Response:
        incarnation = request.query_params.get("incarnation")
        if incarnation is None:
            raise InvalidRequest([("incarnation", "is missing; it says which session of this id is meant")])
        async with self._node.operation():
            await self._node.service.close_session(request.path_params["id"], incarnation=incarnation)
        return json_response(self._identity().model_dump())

    async def drain(self, _request: Request) -> Response:
        """Begin to drain, and answer at once: the caller sees the end by the node's exit."""
        self._draining = self._draining or asyncio.create_task(self._node.drain())
        await asyncio.sleep(0)  # lets the task take the node out of service before this says so
        return json_response(self._identity().model_dump())

    def _identity(self) -> Identity:
        node = self._node
        if node.state != "bound":
            return Identity(node_id=node.node_id, state=node.state)
        service = node.service
        return Identity(
            node_id=node.node_id,
            state="bound",
            processor_id=service.processor_id,
            epoch=service.epoch,
            sessions=list(service.session_ids),
        )


def _opening(session: OpenSession) -> Opening:
    return Opening(
        session_id=session.session_id, incarnation=session.incarnation, overrides=tuple(session.config.items())
    )


def _info(view: SessionView) -> SessionInfo:
    return SessionInfo(
        session_id=view.session_id,
        config=dict(view.config.as_dict()),
        created=view.created,
        stm_length=view.stm_length,
        time=view.time,
    )

"""The gateway's own routes: sessions, and how the gateway itself is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.requests import HTTPConnection

from kato_gateway.api import schemas
from kato_gateway.dataplane.plane import OWNER
from kato_gateway.domain.errors import InvalidSession, NodeNotFound
from kato_gateway.domain.sessions import LIVE_STATUSES, Json, NodeRecord, SessionRecord
from kato_gateway.lifecycle import TTL_S_MAX, CreateSession, Lifecycle
from kato_gateway.registry.base import SessionQuery
from kato_node.wire.web import StrictRoute

Wanted = Annotated[schemas.CreateSession | None, Body(examples=[schemas.CREATE_EXAMPLE])]


def caller(connection: HTTPConnection) -> str | None:
    """Return whose call this is, as `admit` found; None without keys."""
    owner: str | None = connection.scope[OWNER]
    return owner


Owner = Annotated[str | None, Depends(caller)]
Ttl = Annotated[float | None, Query(gt=0, le=TTL_S_MAX, allow_inf_nan=False)]


class SessionRoutes:
    """Creates, shows, extends and ends sessions."""

    def __init__(self, lifecycle: Lifecycle, *, gives_tokens: bool) -> None:
        self._lifecycle = lifecycle
        self._gives_tokens = gives_tokens

    async def create(
        self, request: Request, response: Response, owner: Owner, body: Wanted = None
    ) -> schemas.CreatedSession:
        """Create a session, or find a live one of this id and user (200)."""
        wanted = body or schemas.CreateSession()
        created = await self._lifecycle.create(
            CreateSession(
                owner=owner,
                user_id=wanted.user_id,
                session_id=wanted.session_id,
                node_id=wanted.node_id,
                ttl_seconds=wanted.ttl_seconds,
                sliding=wanted.sliding,
                config=wanted.config or {},
                metadata=wanted.metadata or {},
            )
        )
        response.status_code = 201 if created.created else 200
        config = created.record.effective_config
        session = self._reply(created.record, created.node, config, request)
        return schemas.CreatedSession(
            **session.model_dump(),
            start=created.start,
            timings_ms={step: round(ms, 3) for step, ms in created.timings_ms.items()},
        )

    async def show(self, request: Request, session_id: str, owner: Owner) -> schemas.Session:
        """Show a session; that is no call on it."""
        return await self._shown(request, await self._lifecycle.get(session_id, owner=owner))

    async def extend(self, request: Request, session_id: str, owner: Owner, ttl_seconds: Ttl = None) -> schemas.Session:
        """Let the session live `ttl_seconds` from now; without it, its present time to live again."""
        return await self._shown(request, await self._lifecycle.extend(session_id, ttl_s=ttl_seconds, owner=owner))

    async def end(self, session_id: str, owner: Owner, purge: bool = False) -> schemas.DeletedSession:
        """End a session, and its node if that serves nobody else. What its processor learned stays."""
        if purge:
            raise InvalidSession([("purge", "is not available yet; without it the learned patterns stay")])
        ended = await self._lifecycle.end(session_id, owner=owner)
        return schemas.DeletedSession(status="deleted", session_id=session_id, processor_id=ended.processor_id)

    async def _shown(self, request: Request, record: SessionRecord) -> schemas.Session:
        config = await self._lifecycle.effective_config(record.session_id)
        node = None if record.node_id is None else await self._node(record.node_id)
        return self._reply(record, node, config, request)

    def _reply(
        self, record: SessionRecord, node: NodeRecord | None, config: Mapping[str, Json], request: Request
    ) -> schemas.Session:
        token = self._lifecycle.access_token(record) if self._gives_tokens else None
        return session_reply(record, node, config, authority=request.url.netloc, token=token)

    async def _node(self, node_id: str) -> NodeRecord | None:
        try:
            return await self._lifecycle.directory.node(node_id)
        except NodeNotFound:  # it ended just now
            return None


class OwnRoutes:
    """How the gateway itself is."""

    def __init__(self, lifecycle: Lifecycle, *, version: str, runtime: str) -> None:
        self._lifecycle = lifecycle
        self._version = version
        self._runtime = runtime
        self._started_at_s = time.monotonic()

    async def health(self) -> schemas.GatewayHealth:
        """Whether the gateway is alive."""
        return schemas.GatewayHealth(status="healthy", uptime=self._uptime_s)

    async def status(self) -> schemas.GatewayStatus:
        """How many sessions and nodes there are."""
        directory = self._lifecycle.directory
        sessions = {
            status.value: await directory.count_sessions(SessionQuery(statuses=frozenset({status})))
            for status in sorted(LIVE_STATUSES, key=lambda status: status.value)
        }
        nodes = Counter(node.state.value for node in await directory.nodes())
        return schemas.GatewayStatus(
            status="okay",
            version=self._version,
            uptime=self._uptime_s,
            runtime=self._runtime,
            sessions=sessions,
            nodes=dict(sorted(nodes.items())),
        )

    @property
    def _uptime_s(self) -> float:
        return round(time.monotonic() - self._started_at_s, 3)


def session_reply(
    record: SessionRecord,
    node: NodeRecord | None,
    config: Mapping[str, Json],
    *,
    authority: str,
    token: str | None,
) -> schemas.Session:
    """Return the session as clients see it.

    Args:
        node: the one that has it open. config: effective.
        authority: how the client reached the gateway, host and port.
        token: what the node takes for a call of this session, None where it asks for none.
    """
    external = None if node is None else node.external
    return schemas.Session(
        session_id=record.session_id,
        user_id=record.user_id,
        node_id=record.processor_id,
        processor_id=record.processor_id,
        status=record.status.value,
        container_name=None if node is None else node.name,
        port=None if external is None else external.port,
        internal_url=None if node is None or node.internal is None else node.internal.http_url,
        external_url=None if external is None else external.http_url,
        ws_url=f"ws://{authority}/sessions/{record.session_id}/ws",
        created_at=_moment(record.created_at_s),
        expires_at=None if record.expires_at_s is None else _moment(record.expires_at_s),
        ttl_seconds=_number(record.ttl_s),
        last_activity_at=_moment(record.last_activity_at_s),
        session_config=dict(config),  # type: ignore[arg-type]  # JSON, read-only as the record has it
        metadata=dict(record.metadata),  # type: ignore[arg-type]  # as above
        access_token=token,
    )


def add_session_routes(router: APIRouter, routes: SessionRoutes, *, create: str, one: str) -> None:
    """Serve the session routes: creation at path `create`, everything about one session under `one`."""
    router.add_api_route(
        create,
        routes.create,
        methods=["POST"],
        status_code=201,
        responses={200: {"model": schemas.CreatedSession, "description": "A live session of this id and user"}},
        summary="Create or find a session",
    )
    router.add_api_route(one, routes.show, methods=["GET"], summary="Show a session")
    router.add_api_route(one, routes.end, methods=["DELETE"], summary="End a session")
    router.add_api_route(f"{one}/extend", routes.extend, methods=["POST"], summary="Move a session's expiry")


def sessions_router(routes: SessionRoutes) -> APIRouter:
    """Return the session routes."""
    router = APIRouter(route_class=StrictRoute, tags=["sessions"])
    add_session_routes(router, routes, create="/sessions", one="/sessions/{session_id}")
    return router


def own_router(routes: OwnRoutes) -> APIRouter:
    """Return the gateway's own routes."""
    router = APIRouter(tags=["gateway"])
    router.add_api_route("/health", routes.health, methods=["GET"], summary="Whether the gateway is alive")
    router.add_api_route("/status", routes.status, methods=["GET"], summary="Sessions and nodes, counted")
    return router


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _number(value: float | None) -> int | float | None:
    """Return whole numbers as integers: 3600 reads better than 3600.0."""
    return int(value) if value is not None and value.is_integer() else value

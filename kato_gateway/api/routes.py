"""The routes of one session: created, shown, extended, ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.requests import HTTPConnection

from kato_gateway.api import schemas
from kato_gateway.api.replies import session_reply
from kato_gateway.dataplane.hangup import unless_hung_up
from kato_gateway.dataplane.plane import OWNER
from kato_gateway.domain.errors import NodeNotFound
from kato_gateway.domain.sessions import Json, NodeRecord, SessionRecord
from kato_gateway.lifecycle import TTL_S_MAX, CreateSession, Lifecycle

Wanted = Annotated[schemas.CreateSession | None, Body(examples=[schemas.CREATE_EXAMPLE])]


async def caller(connection: HTTPConnection) -> str | None:
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
        creation = self._lifecycle.create(
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
        created = await unless_hung_up(request.receive, creation)
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
        """End a session, and its node if that serves nobody else. What its processor learned stays, unless purged."""
        ended = await self._lifecycle.end(session_id, owner=owner, purge=purge)
        purged = purge and not await self._lifecycle.directory.owes_purge(ended.processor_id)
        return schemas.DeletedSession(
            status="deleted", session_id=session_id, processor_id=ended.processor_id, purged=purged
        )

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

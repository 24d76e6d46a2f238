"""The routes that look over many sessions, ask whether one is there, and configure one."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query, Request

from kato_gateway.api import schemas
from kato_gateway.api.replies import session_reply
from kato_gateway.api.routes import Owner
from kato_gateway.domain.errors import SessionExpired, SessionNotFound
from kato_gateway.domain.sessions import LIVE_STATUSES, NodeRecord, SessionRecord, SessionStatus
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.registry.base import SessionQuery
from kato_node.wire import paging
from kato_node.wire.operations import PAGE_DEFAULT, PAGE_MAX

UserId = Annotated[str | None, Query(max_length=128, description="only this user's")]
Status = Annotated[
    Literal["creating", "active", "hibernated", "ended"] | None,
    Query(description="only those of this status; without it those that live"),
]
Values = Annotated[schemas.SetConfig, Body(examples=[schemas.CONFIG_EXAMPLE])]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="how many at most")]
Cursor = Annotated[str | None, Query(max_length=1024, description="a reply's `next_cursor`: what follows it")]


class BrowseRoutes:
    """Lists, counts, asks, configures."""

    def __init__(self, lifecycle: Lifecycle, *, gives_tokens: bool) -> None:
        self._lifecycle = lifecycle
        self._gives_tokens = gives_tokens

    async def listed(
        self,
        request: Request,
        owner: Owner,
        user_id: UserId = None,
        status: Status = None,
        limit: Limit = PAGE_DEFAULT,
        cursor: Cursor = None,
    ) -> schemas.SessionList:
        """Show the caller's sessions, page by page."""
        statuses = LIVE_STATUSES if status is None else frozenset({SessionStatus(status)})
        query = SessionQuery(owner=owner, user_id=user_id, statuses=statuses)
        _, after = paging.asked({} if cursor is None else {"cursor": cursor})
        directory = self._lifecycle.directory
        found = await directory.sessions(query, limit=limit + 1, after=after)
        shown = found[:limit]
        nodes = {node.node_id: node for node in await directory.nodes()}
        return schemas.SessionList(
            sessions=[self._reply(record, nodes.get(record.node_id or ""), request) for record in shown],
            next_cursor=paging.cursor(shown[-1].session_id) if len(found) > limit else None,
            total=await directory.count_sessions(query),
        )

    async def count(self, owner: Owner) -> schemas.SessionCount:
        """Count the caller's sessions that live."""
        query = SessionQuery(owner=owner, statuses=LIVE_STATUSES)
        return schemas.SessionCount(active_session_count=await self._lifecycle.directory.count_sessions(query))

    async def exists(self, session_id: str, owner: Owner) -> schemas.SessionExists:
        """Ask whether a session lives; that is no call on it."""
        expired = False
        try:
            await self._lifecycle.get(session_id, owner=owner)
        except SessionExpired:
            expired = True
        except SessionNotFound:
            pass
        else:
            return schemas.SessionExists(exists=True, expired=False, session_id=session_id)
        return schemas.SessionExists(exists=False, expired=expired, session_id=session_id)

    async def config(self, session_id: str, owner: Owner) -> schemas.SessionConfig:
        """Show every configuration value that applies to a session; that is no call on it."""
        record = await self._lifecycle.get(session_id, owner=owner)
        config = await self._lifecycle.configs.effective(session_id, owner=owner)
        return _config(record, dict(config))

    async def configure(self, session_id: str, owner: Owner, body: Values) -> schemas.SessionConfig:
        """Change configuration values of a session, wholly or not at all; its node is woken if it sleeps."""
        config = await self._lifecycle.configs.update(session_id, body.config, owner=owner)
        return _config(await self._lifecycle.get(session_id, owner=owner), dict(config))

    def _reply(self, record: SessionRecord, node: NodeRecord | None, request: Request) -> schemas.Session:
        token = self._lifecycle.access_token(record) if self._gives_tokens and record.live else None
        return session_reply(record, node, record.effective_config, authority=request.url.netloc, token=token)


def add_browse_routes(router: APIRouter, routes: BrowseRoutes, *, many: str) -> None:
    """Serve what looks over many sessions; to be added before the routes of one."""
    router.add_api_route(many, routes.listed, methods=["GET"], summary="List sessions")
    router.add_api_route(f"{many}/count", routes.count, methods=["GET"], summary="Count sessions")


def add_detail_routes(router: APIRouter, routes: BrowseRoutes, *, one: str) -> None:
    """Serve what asks about one session, or configures it."""
    config = f"{one}/config"
    router.add_api_route(f"{one}/exists", routes.exists, methods=["GET"], summary="Ask whether a session lives")
    router.add_api_route(config, routes.config, methods=["GET"], summary="Show a session's configuration")
    router.add_api_route(config, routes.configure, methods=["POST"], summary="Change a session's configuration")


def _config(record: SessionRecord, config: dict[str, object]) -> schemas.SessionConfig:
    return schemas.SessionConfig.model_validate(
        {"session_id": record.session_id, "processor_id": record.processor_id, "config": config}
    )

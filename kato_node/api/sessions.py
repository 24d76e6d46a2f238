"""The node's own sessions over HTTP (wire.sessions)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kato_node.errors import SessionNotFound
from kato_node.node import Node
from kato_node.service import SessionView
from kato_node.wire import paging
from kato_node.wire.control import ID_PATTERN
from kato_node.wire.errors import InvalidRequest
from kato_node.wire.sessions import OPERATIONS, NewSession
from kato_node.wire.web import json_response, parsed

Endpoint = Callable[[Request], Awaitable[Response]]
_ID = re.compile(ID_PATTERN)


def session_routes(node: Node) -> list[Route]:
    """Return the routes of the node's own sessions."""
    own = _OwnSessions(node)
    endpoints: Mapping[str, Endpoint] = {
        "create_session": own.create,
        "sessions": own.listed,
        "session": own.show,
        "delete_session": own.delete,
    }
    return [
        Route(path, endpoints[operation.name], methods=operation.methods, name=operation.name)
        for operation in OPERATIONS
        for path in operation.paths
    ]


class _OwnSessions:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def create(self, request: Request) -> Response:
        async with self._node.operation():
            service = self._node.service
            raw = await request.body()
            wanted = parsed(NewSession, raw) if raw else NewSession()
            session_id = f"session-{uuid4().hex}" if wanted.session_id is None else wanted.session_id
            if not _ID.fullmatch(session_id):
                raise InvalidRequest([("session_id", f"must match {ID_PATTERN}")])
            view = await service.open_session(session_id, incarnation=None, overrides=wanted.config)
            return json_response(self._shown(view), status=201 if view.created else 200)

    async def listed(self, request: Request) -> Response:
        async with self._node.operation():
            limit, after = paging.asked(request.query_params)
            ids = self._node.service.session_ids
            shown = [session_id for session_id in ids if session_id > after][: limit + 1]
            views = []
            for session_id in shown[:limit]:
                with suppress(SessionNotFound):  # ended meanwhile
                    views.append(self._shown(await self._node.reads.session(session_id)))
            following = paging.cursor(shown[limit - 1]) if len(shown) > limit else None
            return json_response({"sessions": views, "next_cursor": following, "total": len(ids)})

    async def show(self, request: Request) -> Response:
        async with self._node.operation():
            return json_response(self._shown(await self._node.reads.session(request.path_params["session_id"])))

    async def delete(self, request: Request) -> Response:
        async with self._node.operation():
            service, session_id = self._node.service, request.path_params["session_id"]
            await service.end_own_session(session_id)
            done = {"status": "deleted", "session_id": session_id, "processor_id": service.processor_id}
            return json_response(done)

    def _shown(self, view: SessionView) -> dict[str, object]:
        return {
            "session_id": view.session_id,
            "processor_id": self._node.service.processor_id,
            "status": "active",
            "session_config": view.config.as_dict(),
            "stm_length": view.stm_length,
            "time": view.time,
        }

"""Paths kept for existing clients: the same handlers at other places."""

from __future__ import annotations

from fastapi import APIRouter

from kato_gateway.api.openapi import COMPAT
from kato_gateway.api.routes import SessionRoutes, add_session_routes
from kato_node.wire.web import StrictRoute


def compat_router(routes: SessionRoutes) -> APIRouter:
    """Return `/session/create`, `/session/{id}` and `/v2/sessions`, marked as deprecated."""
    router = APIRouter(route_class=StrictRoute, deprecated=True, tags=[COMPAT])
    add_session_routes(router, routes, create="/session/create", one="/session/{session_id}")
    add_session_routes(router, routes, create="/v2/sessions", one="/v2/sessions/{session_id}")
    return router

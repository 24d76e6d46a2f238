"""Where the routes of sessions are: their own place, and those kept for existing clients, with the same handlers."""

from __future__ import annotations

from fastapi import APIRouter

from kato_gateway.api.browse import BrowseRoutes, add_browse_routes, add_detail_routes
from kato_gateway.api.openapi import COMPAT
from kato_gateway.api.routes import SessionRoutes, add_session_routes
from kato_node.wire.web import StrictRoute


def sessions_router(routes: SessionRoutes, browse: BrowseRoutes) -> APIRouter:
    """Return the session routes."""
    router = APIRouter(route_class=StrictRoute, tags=["sessions"])
    add_browse_routes(router, browse, many="/sessions")
    add_session_routes(router, routes, create="/sessions", one="/sessions/{session_id}")
    add_detail_routes(router, browse, one="/sessions/{session_id}")
    return router


def compat_router(routes: SessionRoutes, browse: BrowseRoutes) -> APIRouter:
    """Return `/session/create`, `/session/{id}` and `/v2/sessions`, marked as deprecated."""
    router = APIRouter(route_class=StrictRoute, deprecated=True, tags=[COMPAT])
    add_session_routes(router, routes, create="/session/create", one="/session/{session_id}")
    add_detail_routes(router, browse, one="/session/{session_id}")
    add_browse_routes(router, browse, many="/v2/sessions")
    add_session_routes(router, routes, create="/v2/sessions", one="/v2/sessions/{session_id}")
    add_detail_routes(router, browse, one="/v2/sessions/{session_id}")
    return router

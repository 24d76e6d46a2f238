"""The gateway's ASGI application: its own routes, the data plane before them, one edge around both."""

from __future__ import annotations

from fastapi import FastAPI

from kato_gateway import __version__
from kato_gateway.api.browse import BrowseRoutes
from kato_gateway.api.compat import compat_router, sessions_router
from kato_gateway.api.errors import translate
from kato_gateway.api.openapi import with_forwarded
from kato_gateway.api.own import OwnRoutes, own_router
from kato_gateway.api.routes import SessionRoutes
from kato_gateway.api.watch import watch_router
from kato_gateway.dataplane.admit import takes_lines
from kato_gateway.dataplane.attempts import Limits
from kato_gateway.dataplane.plane import DataPlane
from kato_gateway.dataplane.proxy import Client
from kato_gateway.domain.owners import NO_KEYS, KeyTable
from kato_gateway.lifecycle import Lifecycle
from kato_node.wire.web import BodyLimit, add_docs, install_errors

BODY_BYTES_MAX = 16 * 2**20
_DESCRIPTION = """
A session is a short-term memory of its own on a processor, which has a node of its own. Every operation of a processor
is called under `/sessions/{session_id}`, or at the root with `X-Session-ID` (without it: the session `default`), and is
forwarded to the session's node, which is woken if it sleeps.
"""


def create_app(
    lifecycle: Lifecycle,
    client: Client,
    *,
    runtime: str,
    limits: Limits | None = None,
    keys: KeyTable = NO_KEYS,
    gives_tokens: bool = False,
) -> FastAPI:
    """Build the application; nothing starts here.

    Args:
        client: for the way to the nodes, from `new_client`.
        runtime: its name, for /status.
        keys: one of which every request needs; none: whoever reaches us on loopback may call.
        gives_tokens: whether sessions are shown with what their nodes ask of who calls there.
    """
    app = FastAPI(
        title="KATO gateway",
        version=__version__,
        description=_DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    add_docs(app)
    sessions = SessionRoutes(lifecycle, gives_tokens=gives_tokens)
    browse = BrowseRoutes(lifecycle, gives_tokens=gives_tokens)
    app.include_router(sessions_router(sessions, browse))
    app.include_router(own_router(OwnRoutes(lifecycle, version=app.version, runtime=runtime)))
    app.include_router(watch_router(lifecycle))
    app.include_router(compat_router(sessions, browse))
    app.openapi = with_forwarded(app, needs_key=bool(keys))  # type: ignore[method-assign]  # FastAPI's own way to extend it
    app.add_middleware(
        DataPlane, resolver=lifecycle, usage=lifecycle.activity, client=client, limits=limits or Limits(), keys=keys
    )
    app.add_middleware(
        BodyLimit,
        max_bytes=BODY_BYTES_MAX,
        exempt=lambda scope: takes_lines(scope["method"], scope["raw_path"]),
    )
    install_errors(app, translate)
    return app

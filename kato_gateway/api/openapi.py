"""OpenAPI of the gateway: its own routes as FastAPI has them, and what it forwards as the nodes publish it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from kato_gateway.dataplane.admit import NOT_AT_ROOT, WITHOUT_KEY
from kato_node.wire import openapi, schemas
from kato_node.wire.openapi import Schema
from kato_node.wire.operations import OPERATIONS

BY_SESSION = "operations of a session"
AT_ROOT = "operations, the session in a header"
COMPAT = "kept for existing clients"

_SESSION_IN_PATH: Schema = {
    "name": "session_id",
    "in": "path",
    "required": True,
    "description": "The session that is meant.",
    "schema": {"type": "string"},
    "example": "default",
}
_KEYS: Schema = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_ERROR: Schema = {
    "description": "Any error",
    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schemas.Error.__name__}"}}},
}


def with_forwarded(app: FastAPI, *, needs_key: bool) -> Callable[[], dict[str, object]]:
    """Return what makes the app's OpenAPI document, once, with every operation at each place it is forwarded from."""
    return cache(partial(_document, app, needs_key))


def _document(app: FastAPI, needs_key: bool) -> dict[str, object]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description + openapi.WEBSOCKET,
        routes=app.routes,
    )
    for item in document["paths"].values():
        for operation in item.values():
            operation["responses"].pop("422", None)  # FastAPI's own form of it, which is never sent
            operation["responses"]["default"] = _ERROR
    document["paths"] |= forwarded()
    own = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        own.pop(name, None)
    published = openapi.components()
    assert all(own[name] == published[name] for name in own.keys() & published.keys()), "one name, two schemas"
    document["components"]["schemas"] = own | published
    if needs_key:
        document["components"]["securitySchemes"] = _KEYS
        document["security"] = [{name: []} for name in _KEYS]
        for path in document["paths"].keys() & {open_to_all.decode() for open_to_all in WITHOUT_KEY}:
            document["paths"][path]["get"]["security"] = []
    return document


def forwarded() -> dict[str, Schema]:
    """Return the path items of everything that is forwarded over HTTP."""
    at_root = [operation for operation in OPERATIONS if operation.paths[0] not in NOT_AT_ROOT]
    items = _under("/sessions/{session_id}", BY_SESSION) | openapi.paths(at_root, tag=AT_ROOT)
    for prefix in ("/session/{session_id}", "/v2/sessions/{session_id}"):
        for path, item in _under(prefix, COMPAT).items():
            items[path] = {key: _deprecated(value) for key, value in item.items()}
    return items


def _under(prefix: str, tag: str) -> dict[str, Schema]:
    """Return the path items with the session in the path."""
    items = openapi.paths(prefix=prefix, parameters=(), tag=tag)
    return {path: {"parameters": [_SESSION_IN_PATH], **item} for path, item in items.items()}


def _deprecated(part: object) -> object:
    return {**part, "deprecated": True} if isinstance(part, dict) else part

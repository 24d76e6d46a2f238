"""OpenAPI of the operations, from their table and the models: the node's own, and what the gateway forwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic.json_schema import models_json_schema

from kato_node.wire import schemas, sessions
from kato_node.wire.operations import JSON, LINES, OPERATIONS, Operation, Parameter

Schema = dict[str, object]
_REF = "#/components/schemas/{model}"

SESSION_PARAMETER: Schema = {
    "name": "X-Session-ID",
    "in": "header",
    "required": False,
    "description": "The session that is meant; echoed. Without it: the processor's own session, or `default`.",
    "schema": {"type": "string"},
}
RETRY_PARAMETER: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key again gives the first reply and applies nothing.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
WEBSOCKET = """
**WS /ws** `{type, payload?, id?}` -> `{type, data, id?}`; `?session_id=` (or `X-Session-ID`) selects the session.
observe -> observation_result · observe_sequence -> sequence_result · get_stm -> stm · get_predictions -> predictions ·
learn -> learn_result · clear_stm, clear_all -> status · ping -> pong · subscribe -> event, then one event for each
pattern that the session learns. A payload is the body of the same operation, and get_predictions takes `unique_id`.
The `id` (a string or an integer) is echoed; on a mutating message it is the Idempotency-Key. Messages of one socket
are answered in order. An error is `{type: "error", data: {code, message, details}, id?}`, and the socket stays open.
"""


def paths(
    operations: Iterable[Operation] = OPERATIONS,
    *,
    prefix: str = "",
    parameters: Sequence[Schema] = (SESSION_PARAMETER,),
    tag: str = "processor",
) -> dict[str, Schema]:
    """Return the path items of the operations, aliases included.

    Args:
        prefix: what every path begins with, such as "/sessions/{session_id}".
        parameters: what says which session is meant.
    """
    items: dict[str, Schema] = {}
    for operation in operations:
        for path in operation.paths:
            item = items.setdefault(prefix + path, {})
            for method in operation.methods:
                item[method.lower()] = _described(operation, prefix + path, method, parameters, tag)
    return items


def components(operations: Iterable[Operation] = OPERATIONS) -> dict[str, Schema]:
    """Return the schemas that `paths` refers to, by name."""
    chosen = list(operations)
    requests = [operation.request for operation in chosen if operation.request is not None and not operation.lines]
    replies = [operation.reply for operation in chosen if JSON in operation.reply_media]
    models: list[type[schemas.Request | schemas.Reply]] = [*requests, *replies, schemas.Error]
    wanted = [(model, "validation" if issubclass(model, schemas.Request) else "serialization") for model in models]
    _, definitions = models_json_schema(dict.fromkeys(wanted), ref_template=_REF)  # type: ignore[arg-type]
    found: dict[str, Schema] = definitions["$defs"]
    return found


def document(*, title: str, version: str, description: str, require_token: bool) -> Schema:
    """Return a whole document of a node.

    Args:
        require_token: whether every operation needs a session's token; if so the node has no sessions of its own
            (wire.sessions).
    """
    own = () if require_token else sessions.OPERATIONS
    items = paths(own, parameters=(), tag="sessions") | paths()
    for root in sessions.ROOTS:
        for path, item in paths(prefix=f"{root}/{{session_id}}", parameters=(), tag="operations of a session").items():
            items[path] = {"parameters": [_parameter("session_id", path, sessions.PARAMETER)], **item}
    made: Schema = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description + WEBSOCKET},
        "paths": items,
        "components": {"schemas": components([*own, *OPERATIONS])},
    }
    return _with_token(made) if require_token else made


def _with_token(document: Schema) -> Schema:
    """Return the document of a node that asks for a token everywhere but on /health."""
    items, parts = document["paths"], document["components"]
    assert isinstance(items, dict)
    assert isinstance(parts, dict)
    health = {method: {**described, "security": []} for method, described in items["/health"].items()}
    token = {"type": "http", "scheme": "bearer", "description": "the session's access_token"}
    return {
        **document,
        "paths": {**items, "/health": health},
        "components": {**parts, "securitySchemes": {"token": token}},
        "security": [{"token": []}],
    }


def _described(operation: Operation, path: str, method: str, parameters: Sequence[Schema], tag: str) -> Schema:
    alias = not path.endswith(operation.paths[0])
    done: Schema = {"description": "Done", "content": _reply(operation)}
    described: Schema = {
        "tags": [tag],
        "summary": operation.summary,
        "operationId": f"{method.lower()}{path}".replace("{", "").replace("}", "").replace("/", "_").replace("-", "_"),
        "parameters": [
            *(parameters if operation.by_session else ()),
            *([RETRY_PARAMETER] if operation.mutating else ()),
            *(_parameter(name, path, said) for name, said in operation.parameters.items()),
        ],
        "responses": {
            "200": done,
            **({"201": {**done, "description": "Made"}} if operation.creating else {}),
            "default": {"description": "Any error", "content": {JSON: _schema(schemas.Error)}},
        },
    }
    if alias:
        described |= {"deprecated": True, "description": f"The same as {operation.paths[0]}."}
    if operation.request is not None:
        # What may be made of nothing said may be asked for by no body.
        described["requestBody"] = {"required": not operation.creating, "content": _request(operation)}
    return described


def _request(operation: Operation) -> Schema:
    assert operation.request is not None, "there is a body"
    if operation.lines:
        body: Schema = {"schema": {"type": "string", "description": operation.request.__doc__}}
        return {LINES: {**body, "example": operation.example}}
    return {JSON: {**_schema(operation.request), "example": operation.example}}


def _reply(operation: Operation) -> Schema:
    return {
        media: _schema(operation.reply) if media == JSON else {"schema": {"type": "string"}}
        for media in operation.reply_media
    }


def _schema(model: type[schemas.Request | schemas.Reply]) -> Schema:
    return {"schema": {"$ref": _REF.format(model=model.__name__)}}


def _parameter(name: str, path: str, said: Parameter) -> Schema:
    in_path = f"{{{name}}}" in path
    shown: Schema = {
        "name": name,
        "in": "path" if in_path else "query",
        "required": in_path,
        "description": said.description,
        "schema": dict(said.schema),
    }
    return shown if said.example is None else {**shown, "example": said.example}

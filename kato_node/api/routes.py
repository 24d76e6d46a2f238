"""The operations over HTTP: what a request says, in; the reply, as the service made it, out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from kato_node.api.calls import HANDLERS, Call, Handler, retry_key
from kato_node.api.figures import metrics_endpoint
from kato_node.api.requests import met, session_named
from kato_node.api.streams import export_endpoint, import_endpoint
from kato_node.node import Node
from kato_node.wire import headers, sessions, strict_json
from kato_node.wire.operations import OPERATIONS, Operation
from kato_node.wire.strict_json import Json
from kato_node.wire.web import check_query, json_response

Endpoint = Callable[[Request], Awaitable[Response]]

_LINES = tuple(path for operation in OPERATIONS if operation.lines for path in operation.paths)
_WITH_BODY = frozenset({"POST", "PUT"})


def operation_routes(node: Node, *, line_bytes_max: int) -> list[Route]:
    """Return a route for each path of each operation. Plain routes: OpenAPI is made from the table they come from.

    Args:
        line_bytes_max: of one line of an import.
    """
    own = {
        "health": _health(node),
        "metrics": metrics_endpoint(node),
        "export": export_endpoint(node),
        "import": import_endpoint(node, line_bytes_max=line_bytes_max),
    }
    endpoints = {item.name: own.get(item.name) or _endpoint(node, item) for item in OPERATIONS}
    prefixes = ("", *(f"{root}/{{session_id}}" for root in sessions.ROOTS))
    return [
        Route(prefix + path, endpoints[operation.name], methods=operation.methods, name=operation.name)
        for prefix in prefixes
        for operation in OPERATIONS
        for path in operation.paths
    ]


def takes_lines(scope: Scope) -> bool:
    """Whether the path is of an operation that reads lines as they come, and so a body of any length."""
    return str(scope["path"]).endswith(_LINES) and scope["method"] == "POST"


def _endpoint(node: Node, operation: Operation) -> Endpoint:
    handle = HANDLERS[operation.name]

    async def serve(request: Request) -> Response:
        async with node.operation():
            return json_response(await _called(node, operation, handle, request))

    return serve


async def _called(node: Node, operation: Operation, handle: Handler, request: Request) -> object:
    service, reads, patterns = node.service, node.reads, node.patterns  # unbound, it refuses before it reads the body
    session_id = session_named(request, node)
    check_query(request, operation.parameters)
    body = await _body(operation, request)
    arguments = _arguments(operation, request)
    key = request.headers.get(headers.IDEMPOTENCY_KEY)
    call = Call(
        service=service,
        reads=reads,
        patterns=patterns,
        session_id=session_id,
        body=body,
        arguments=arguments,
        retry=retry_key(operation, key, body, arguments, field="Idempotency-Key"),
    )
    await met(request, node)  # nothing else is waited for until the session's turn is asked for
    return await handle(call)


async def _body(operation: Operation, request: Request) -> Json:
    """Return the decoded body; an operation that takes none may be sent nothing or an empty object."""
    if request.method not in _WITH_BODY:
        return {}
    raw = await request.body()
    return {} if not raw and operation.request is None else strict_json.loads(raw)


def _arguments(operation: Operation, request: Request) -> Mapping[str, str]:
    given = {**request.query_params, **request.path_params}
    return {name: given[name] for name in operation.parameters if name in given}


def _health(node: Node) -> Endpoint:
    async def serve(request: Request) -> Response:
        return json_response(node.health(session_named(request, node)))

    return serve

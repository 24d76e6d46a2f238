"""The operations over HTTP: what a request says, in; the reply, as the service made it, out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kato_node.api.calls import HANDLERS, Call, Handler, retry_key
from kato_node.node import Node
from kato_node.wire import headers, strict_json
from kato_node.wire.operations import OPERATIONS, Operation
from kato_node.wire.strict_json import Json
from kato_node.wire.web import json_response

Endpoint = Callable[[Request], Awaitable[Response]]


def operation_routes(node: Node) -> list[Route]:
    """Return a route for each path of each operation. Plain routes: OpenAPI is made from the table they come from."""
    return [
        Route(path, _endpoint(node, operation), methods=operation.methods, name=operation.name)
        for operation in OPERATIONS
        for path in operation.paths
    ]


def _endpoint(node: Node, operation: Operation) -> Endpoint:
    if operation.name == "health":
        return _health(node)
    handle = HANDLERS[operation.name]

    async def serve(request: Request) -> Response:
        with node.activity():
            return json_response(await _called(node, operation, handle, request))

    return serve


async def _called(node: Node, operation: Operation, handle: Handler, request: Request) -> object:
    service, reads = node.service, node.reads  # a node that is not bound refuses before it reads the body
    body = await _body(operation, request)
    key = request.headers.get(headers.IDEMPOTENCY_KEY)
    call = Call(
        service=service,
        reads=reads,
        session_id=request.headers.get(headers.SESSION),
        body=body,
        argument=_argument(operation, request),
        retry=retry_key(operation, key, body, field="Idempotency-Key"),
    )
    return await handle(call)


async def _body(operation: Operation, request: Request) -> Json:
    """Return the decoded body; an operation that takes none may be sent nothing or an empty object."""
    if request.method != "POST":
        return {}
    raw = await request.body()
    return {} if not raw and operation.request is None else strict_json.loads(raw)


def _argument(operation: Operation, request: Request) -> str | None:
    for name in operation.parameters or ():
        given: str | None = request.path_params.get(name) or request.query_params.get(name)
        return given
    return None


def _health(node: Node) -> Endpoint:
    async def serve(request: Request) -> Response:
        return json_response(node.health(request.headers.get(headers.SESSION)))

    return serve

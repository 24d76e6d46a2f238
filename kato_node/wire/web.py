"""What both services share of HTTP: request ids, body limits, strict JSON, one envelope for every error.

The one module of `wire` that knows FastAPI. Usage, in this order (a later middleware is an outer one):

    app = FastAPI(redirect_slashes=False)
    app.router.route_class = StrictRoute             # for routes with pydantic bodies
    app.add_middleware(BodyLimit, max_bytes=…, exempt=…)
    install_errors(app, translate, log_context=…)
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kato_node.wire import docs, headers, logs, strict_json
from kato_node.wire.errors import (
    BodiesTooMany,
    BodyStalled,
    BodyTooLarge,
    ErrorReply,
    InvalidRequest,
    WireError,
    pydantic_errors,
)

Translate = Callable[[Exception], ErrorReply | None]
Model = TypeVar("Model", bound=BaseModel)
_log = logging.getLogger(__name__)
_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")
_NOT_FOUND = ErrorReply(code="NOT_FOUND", message="There is no such route; /docs lists them all.")
_QUIET_PATHS = frozenset({"/health", "/ready"})  # asked all the time: logged at DEBUG while they are well
# HTTP statuses that libraries raise by themselves, beside 404 and 405.
_BY_STATUS = {400: "VALIDATION_ERROR", 401: "UNAUTHENTICATED", 403: "FORBIDDEN", 413: "BODY_TOO_LARGE"}


def json_response(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a reply of JSON that is sent as it is: no model is built from it."""
    return Response(strict_json.dumps(body), status, headers, media_type="application/json")


def error_response(reply: ErrorReply) -> Response:
    """Return the HTTP reply of an error."""
    return json_response(reply.envelope, status=reply.status, headers=reply.all_headers)


def install_errors(
    app: FastAPI,
    translate: Translate,
    *,
    log_context: Callable[[], Mapping[str, object]] = dict,
) -> None:
    """Make every reply of the app carry a request id, and every error the envelope. Call it after other middleware.

    Args:
        translate: says what a caller is told of a service's exception; None makes it an INTERNAL_ERROR, logged.
        log_context: what each log line of a request carries beside request_id and session_id.
    """
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(Edge, translate=translate, log_context=log_context)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(_NOT_FOUND)
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))
        message = f"This route takes {allowed}."
        return error_response(ErrorReply(code="METHOD_NOT_ALLOWED", message=message, headers={"Allow": allowed}))
    code = _BY_STATUS.get(error.status_code, "INTERNAL_ERROR")
    return error_response(ErrorReply(code=code, message=str(error.detail), headers=error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the framework's signature
    assert isinstance(error, RequestValidationError)
    return error_response(wire_reply(InvalidRequest(pydantic_errors(error.errors()))))


def wire_reply(error: WireError) -> ErrorReply:
    """Return what a caller is told of a request that could not be understood."""
    return ErrorReply(code=error.code, message=error.message, details=error.details)


def explain(error: Exception, translate: Translate) -> ErrorReply:
    """Return what a caller is told of any exception: one that nobody translates is logged, and is INTERNAL_ERROR."""
    told = wire_reply(error) if isinstance(error, WireError) else translate(error)
    if told is not None:
        return told
    _log.error("request_failed", exc_info=error)
    message = "Something went wrong on our side; the log has it under this request id."
    request_id = logs.context.get().get("request_id")
    return ErrorReply(code="INTERNAL_ERROR", message=message, details={"request_id": request_id})


def parsed(model: type[Model], raw: bytes) -> Model:
    """Return a body as its pydantic model. Raises: MalformedJson, InvalidRequest."""
    try:
        return model.model_validate(strict_json.loads(raw))
    except ValidationError as error:
        raise InvalidRequest(pydantic_errors(error.errors(include_url=False, include_input=False))) from error


def _methods(request: Request) -> set[str]:
    """Return the methods of all routes of this path: one route alone knows only its own.

    A path of its own wins over one with a parameter: /session/create is no session.
    """
    known = single_routes(request.app.routes)
    fitting = [route for route in known if route.matches(request.scope)[0] is not Match.NONE]
    exact = [route for route in fitting if getattr(route, "path", None) == request.scope["path"]]
    return {method for route in exact or fitting for method in getattr(route, "methods", None) or ()}


def single_routes(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Yield each route, those of included routers one by one: a newer FastAPI keeps them together."""
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from single_routes(included.routes)


def check_query(request: Request, known: Collection[str]) -> None:
    """Refuse a query parameter that nobody would read: most likely it is misspelt. Raises: InvalidRequest."""
    advice = f"there is {', '.join(sorted(known))}" if known else "this route takes none"
    unknown = [(name, f"unknown query parameter; {advice}") for name in request.query_params if name not in known]
    if unknown:
        raise InvalidRequest(unknown)


class StrictRoute(APIRoute):
    """A route that ignores nothing it is sent.

    It reads its body as JSON whatever its Content-Type says, by the rules of `strict_json`; where it takes no body, it
    may be sent none or an empty object; and it refuses query parameters that it does not know.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, None, Response]]:
        """Return FastAPI's handler, given a request whose body is read and decoded already."""
        handle = super().get_route_handler()
        known = frozenset(_query_names(self.dependant))

        async def strict(request: Request) -> Response:
            check_query(request, known)
            if self.body_field is None:
                if (raw := await request.body()) and strict_json.loads(raw) != {}:
                    raise InvalidRequest([("body", "this route takes no body")])
                return await handle(request)
            as_json = [item for item in request.scope["headers"] if item[0] != b"content-type"]
            scope = {**request.scope, "headers": [*as_json, (b"content-type", b"application/json")]}
            decoded = _StrictRequest(scope, request.receive)
            if await decoded.body():
                await decoded.json()  # raises here, where FastAPI does not turn it into an error of its own
            return await handle(decoded)

        return strict


def _query_names(dependant: Dependant) -> Iterator[str]:
    """Yield the query parameters of a route and of what it depends on."""
    yield from (parameter.alias for parameter in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _query_names(inner)


class _StrictRequest(Request):
    async def json(self) -> object:
        if not hasattr(self, "_strict"):
            self._strict = strict_json.loads(await self.body())
        return self._strict


class BodyLimit:
    """Refuses a body of more than `max_bytes` (BODY_TOO_LARGE), by its Content-Length before reading any of it.

    A body of which nothing arrives for `silence_max_s` is given up: whoever waits for it waits for nobody.

    Args:
        exempt: whether a request may send any length, since nobody keeps it.
        held_bytes_max: of the bodies of all requests that are not answered yet; the one too many is refused
            (RATE_LIMITED), so that many large ones, or slow storage behind them, do not take all memory.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        exempt: Callable[[Scope], bool],
        silence_max_s: float = 30.0,
        held_bytes_max: float = math.inf,
    ) -> None:
        self._app = app
        self._held_bytes_max = held_bytes_max
        self._held_bytes = 0
        self._max_bytes = max_bytes
        self._exempt = exempt
        self._silence_max_s = silence_max_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = math.inf if self._exempt(scope) else self._max_bytes
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise BodyTooLarge(self._max_bytes)
        received = held = 0
        complete = False

        async def limited() -> Message:
            nonlocal received, held, complete
            if complete:  # all that may still come is the caller's leaving
                return await receive()
            try:
                async with asyncio.timeout(self._silence_max_s):
                    message = await receive()
            except TimeoutError as error:
                raise BodyStalled(self._silence_max_s) from error
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > max_bytes:
                raise BodyTooLarge(self._max_bytes)
            if max_bytes != math.inf:
                self._held_bytes += received - held
                held = received
                if self._held_bytes > self._held_bytes_max:
                    raise BodiesTooMany
            return message

        try:
            await self._app(scope, limited, send)
        finally:
            self._held_bytes -= held


class Edge:
    """The outermost layer: a request id on every reply, a log line for each request, an envelope for each error."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        translate: Translate,
        log_context: Callable[[], Mapping[str, object]],
    ) -> None:
        self._app = app
        self._translate = translate
        self._log_context = log_context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        reply = _Reply(scope, send)
        token = logs.context.set(reply.log_context(self._log_context()))
        try:
            await self._serve(reply, scope, receive)
        finally:
            self._log_request(reply, scope)
            logs.context.reset(token)

    async def _serve(self, reply: _Reply, scope: Scope, receive: Receive) -> None:
        try:
            await self._app(scope, receive, reply.send)
        except ClientDisconnect:
            reply.status = reply.status or 499  # nobody is left to be told
        except Exception as error:
            told = explain(error, self._translate)
            if reply.status:  # half sent: only breaking the connection tells the caller
                raise
            await error_response(told)(scope, receive, reply.send)

    def _log_request(self, reply: _Reply, scope: Scope) -> None:
        level = logging.DEBUG if scope["path"] in _QUIET_PATHS and (reply.status or 500) < 500 else logging.INFO
        if _log.isEnabledFor(level):
            facts = {
                "method": scope.get("method", "WS"),
                "path": scope["path"],
                "status": reply.status,
                "ms": round((time.perf_counter() - reply.started_at_s) * 1e3, 3),
            }
            _log.log(level, "request", extra=facts)


class _Reply:
    """The way back to one caller; `status` is 0 until something was sent (101 for an accepted WebSocket)."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope)
        request_id = given.get(headers.REQUEST_ID, "")
        self.request_id = request_id if _SANE_ID.fullmatch(request_id) else secrets.token_hex(16)
        self.session_id = given.get(headers.SESSION)
        self.status = 0
        self.started_at_s = time.perf_counter()
        self._scope = scope
        self._send = send

    def log_context(self, more: Mapping[str, object]) -> Mapping[str, object]:
        session = {} if self.session_id is None else {"session_id": self.session_id}
        return {"request_id": self.request_id, **session, **more}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in {"http.response.start", "websocket.http.response.start"}:
            self.status = message["status"]
            self._stamp(message)
        elif kind == "websocket.accept":
            self.status = 101
            self._stamp(message)
        elif kind == "websocket.close" and not self.status:  # refused without a word: the route does not exist
            await error_response(_NOT_FOUND)(self._scope, _nothing, self.send)
            return
        await self._send(message)

    def _stamp(self, message: Message) -> None:
        stamped = MutableHeaders(scope={"headers": list(message.get("headers", ()))})
        stamped[headers.REQUEST_ID] = self.request_id
        if self.session_id is not None:
            stamped[headers.SESSION] = self.session_id
        message["headers"] = stamped.raw


def add_docs(app: FastAPI) -> None:
    """Serve Swagger UI, with its script and style from this server: made for an app with `docs_url=None`."""
    page = get_swagger_ui_html(
        openapi_url=docs.OPENAPI,
        title=app.title,
        swagger_js_url=docs.SCRIPT,
        swagger_css_url=docs.STYLE,
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"docExpansion": "none"},
    )

    async def show(request: Request) -> Response:  # noqa: ARG001 - the framework's signature
        return page

    app.add_route(docs.PAGE, show, include_in_schema=False)
    for path in (docs.SCRIPT, docs.STYLE):
        app.add_route(path, _docs_file, include_in_schema=False)


async def _docs_file(request: Request) -> Response:
    """Send one of Swagger UI's files as fastapi-offline brings them; that package itself is not imported."""
    found = find_spec("fastapi_offline")
    assert found is not None, "a dependency of this package"
    assert found.origin is not None, "a package of files"
    path = Path(found.origin).parent / "static" / request.url.path.rpartition("/")[2]
    return FileResponse(path, headers={"Cache-Control": "max-age=86400"})


async def _nothing() -> Message:
    raise AssertionError("a plain reply reads nothing")

"""The network between simulated processes: HTTP requests as ASGI calls, which break off when either end dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import unquote

import aiohttp
from starlette.types import ASGIApp, Message
from yarl import URL

from tests.chaos.sim.process import Process

LATENCY_S = 0.0005
RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who listens on a port."""

    process: Process
    app: ASGIApp


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request."""

    method: str
    target: str
    headers: RawHeaders
    body: bytes


@dataclass(slots=True)
class Reply:
    """One HTTP reply, whole."""

    status: int = 0
    headers: RawHeaders = ()
    body: bytes = b""


@dataclass(slots=True)
class Network:
    """Ports, and what goes wrong on the way.

    Attributes:
        swallowed: replies of nodes that get lost from now on: what was asked for has happened.
    """

    ports: dict[int, Listener] = field(default_factory=dict)
    swallowed: int = 0

    async def exchange(self, port: int, request: Request) -> Reply:
        """Return the reply of whoever listens there. Raises: aiohttp.ClientError."""
        await asyncio.sleep(LATENCY_S)
        listener = self.ports.get(port)
        if listener is None or not listener.process.alive:
            raise aiohttp.ClientConnectionError("nobody listens")
        reply = await served(listener.process, listener.app, request)
        if reply is None:
            raise aiohttp.ServerDisconnectedError
        await asyncio.sleep(LATENCY_S)
        if self.swallowed:
            self.swallowed -= 1
            raise aiohttp.ServerDisconnectedError
        return reply


async def served(process: Process, app: ASGIApp, request: Request) -> Reply | None:
    """Have the application answer in its process; None if it died of it. A caller that leaves has hung up."""
    gone = asyncio.Event()
    task = process.run(_called(app, request, gone))
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        gone.set()
        task.cancel()
        raise
    if task.cancelled() or task.exception() is not None:
        return None
    return task.result()


async def _called(app: ASGIApp, request: Request, gone: asyncio.Event) -> Reply:
    path, _, query = request.target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"content-length", str(len(request.body)).encode()), *request.headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    reply = Reply()
    unread = [request.body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status, reply.headers = message["status"], list(message.get("headers", ()))
        else:
            reply.body += message.get("body", b"")

    await app(scope, receive, send)
    return reply


class _Content:
    """A reply's body, as aiohttp lets one read it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def readany(self) -> bytes:
        """Return what is there."""
        body, self._body = self._body, b""
        return body

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield what is there."""
        yield await self.readany()


class Response:
    """A reply, as aiohttp shows it."""

    def __init__(self, reply: Reply) -> None:
        self.status = reply.status
        self.raw_headers = tuple(reply.headers)
        self.content_length = len(reply.body)
        self.content = _Content(reply.body)
        self._body = reply.body

    async def read(self) -> bytes:
        """Return the body."""
        return self._body

    def close(self) -> None:
        """Do nothing: it is here whole."""

    release = close


class _Requesting:
    """What aiohttp's `request` returns: to be awaited, or entered."""

    def __init__(self, send: Callable[[], Generator[object, None, Response]]) -> None:
        self._send = send

    def __await__(self) -> Generator[object, None, Response]:
        return self._send()

    async def __aenter__(self) -> Response:
        return await self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it."""


class HttpClient:
    """Looks like an aiohttp.ClientSession to those who call nodes."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def request(
        self,
        method: str,
        url: str | URL,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        data: bytes | None = None,
        **_ignored: object,
    ) -> _Requesting:
        """Send a request."""
        address = URL(url)
        named = headers.items() if isinstance(headers, Mapping) else headers
        request = Request(
            method=method,
            target=address.raw_path_qs,
            headers=[(name.lower().encode(), value.encode()) for name, value in named],
            body=bytes(data or b""),
        )
        return _Requesting(lambda: self._sent(address.port or 80, request).__await__())

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    async def _sent(self, port: int, request: Request) -> Response:
        return Response(await self._network.exchange(port, request))

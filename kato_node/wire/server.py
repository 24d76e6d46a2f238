"""The server of both services: uvicorn, told when to end, ending without pauses, and finding out who is gone.

The one module of `wire` that knows uvicorn.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from kato_node.wire import headers, strict_json
from kato_node.wire.errors import ErrorReply

_BACKLOG = 2_048
_KEEP_ALIVE_S = 75  # longer than any pool of connections keeps one idle, so that the caller is the one to close it
_POLL_S = 0.002
# Messages that are read before the application asks: so many, of at most so many bytes each. While it is busy with one
# message, pings behind it are still heard.
_AHEAD_MAX = 16
_AHEAD_BYTES_MAX = 65_536
_UNREADABLE = ErrorReply(code="MALFORMED_JSON", message="This is not an HTTP/1.1 request that can be read.")
_NO_HANDSHAKE = ErrorReply(
    code="MALFORMED_JSON", message="This is not a handshake of a WebSocket of version 13; a client library makes one."
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """How a WebSocket's peer is looked after: a ping every `ping_s`, and `pong_s` to answer it."""

    ping_s: float = 20.0
    pong_s: float = 15.0


def server_config(
    app: ASGIApp, *, message_bytes_max: int, grace_s: int, heartbeat: Heartbeat | None = None
) -> uvicorn.Config:
    """Return how an application is served in the event loop that runs.

    Args:
        message_bytes_max: of a WebSocket's message; a longer one closes the socket (1009).
        grace_s: for replies under way when the server ends.
    """
    beat = heartbeat or Heartbeat()
    return uvicorn.Config(
        app,
        loop="none",  # it runs in ours
        http=HttpProtocol,
        ws=SocketProtocol,
        ws_max_size=message_bytes_max,
        ws_per_message_deflate=False,
        ws_ping_interval=beat.ping_s,
        ws_ping_timeout=beat.pong_s,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,
    )


class Server(uvicorn.Server):
    """Uvicorn, told when to end instead of looking ten times a second; signals are its owner's.

    Args:
        on_serving: called once it accepts connections.
    """

    def __init__(self, config: uvicorn.Config, *, on_serving: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._on_serving = on_serving
        self._ended = asyncio.Event()

    def stop(self) -> None:
        """Stop accepting, close WebSockets (1012), let replies finish, and return from `serve`."""
        self.should_exit = True
        self._ended.set()

    def cut(self) -> None:
        """Break every connection off: nobody is to conclude anything about what was not answered."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def main_loop(self) -> None:
        """Say that it serves; keep the Date header until `stop`."""
        await self.on_tick(0)
        self._on_serving()
        while not self._ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ended.wait()
            await self.on_tick(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as uvicorn does, without its pauses of a tenth of a second: a caller may be waiting for our successor."""
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self._is_busy() and not self.force_exit:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(_POLL_S)
        for task in self.server_state.tasks:
            task.cancel()

    def _is_busy(self) -> bool:
        return bool(self.server_state.connections or self.server_state.tasks)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class HttpProtocol(HttpToolsProtocol):
    """HTTP, with the envelope also for what cannot be read as HTTP."""

    def send_400_response(self, msg: str) -> None:
        """Answer with the envelope, and close."""
        self.transport.write(_bad_request(_UNREADABLE, self.server_state.default_headers, reason=msg))
        self.transport.close()


def _bad_request(reply: ErrorReply, default_headers: Iterable[tuple[bytes, bytes]], *, reason: str) -> bytes:
    """Return the whole reply to what no application has seen. `reason` is for the log."""
    _log.info("request_unreadable", extra={"reason": reason})
    body = strict_json.dumps(reply.envelope)
    head = [
        b"HTTP/1.1 400 Bad Request",
        *(name + b": " + value for name, value in default_headers),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"%s: %s" % (headers.REQUEST_ID.encode(), secrets.token_hex(16).encode()),
        b"connection: close",
    ]
    return b"\r\n".join([*head, b"", body])


class SocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket whose peer is given up, and its connection cut, when it has stopped answering.

    Uvicorn closes a connection only once everything was sent: to a peer that is gone that is never.
    """

    _heard = False

    def handle_connect(self, event: Request) -> None:
        """Begin with a handshake; answer one that is none with the envelope, and close."""
        if self.conn.accept(event).status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            super().handle_connect(event)
            return
        self.handshake_complete = self.close_sent = True
        reason = str(self.conn.handshake_exc)
        self.transport.write(_bad_request(_NO_HANDSHAKE, self.default_headers, reason=reason))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Take what the peer sent; whatever it is, the peer lives."""
        self._heard = True
        super().data_received(data)

    def send_receive_event_to_app(self) -> None:
        """Hand a message to the application, and go on reading while only a little waits for it."""
        is_small = sum(map(len, self.frames)) <= _AHEAD_BYTES_MAX
        super().send_receive_event_to_app()
        if is_small and self.read_paused and self.queue.qsize() < _AHEAD_MAX:
            self.read_paused = False
            self.transport.resume_reading()

    def send_keepalive_ping(self) -> None:
        """Ping; a connection that has been closing since the last ping is cut."""
        if self.close_sent or self.transport.is_closing():
            self.ping_timer = None
            self.transport.abort()
            return
        self._heard = False
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """Give the peer up, unless it was heard since the ping, or it is we who do not read.

        Neither counts for a peer that leaves what it is sent unread: whoever waits to send more would wait for ever.
        """
        if self.writable.is_set() and (self._heard or self.read_paused):
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        _log.info("socket_given_up", extra={"unread": not self.writable.is_set()})
        super().keepalive_timeout()
        self.transport.abort()

"""One client's WebSocket: it stays open, while the node's behind it may come and go.

Messages are copied both ways, each side at the other's pace. Pings of the protocol are answered on each side by
itself, so an open socket is no sign of life to a node. What becomes of the client's socket when the node's ends:

    the node took its leave (1012)        whatever it did not answer it did not apply: the client's socket stays, and
                                          its unanswered, or next, messages go to the session's next node
    it broke off, nothing unanswered      the same
    it broke off, something unanswered    1012: only the client knows which of its messages it can repeat
    it ended, the socket had subscribed   1012: events may be missed, so the client has to subscribe again
    it was closed with another code       closed with the same code
    the session ended, another has its id 1012: that one is none of this socket's business
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

import aiohttp
from starlette.types import Receive, Send

from kato_gateway.dataplane.attempts import Limits, Resolver, Usage, report
from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import GatewayError
from kato_node.wire import messages
from kato_node.wire.errors import ErrorReply

SERVICE_RESTART = 1012
# RFC 6455, section 7.4.1: what is never sent in a close frame.
_NO_STATUS = 1005
_UNANSWERED = "The session's node has ended; connect again and repeat what was not answered."
_SESSION_ENDED = "The session has ended; connect again to the one that has its id now."
_UNSUBSCRIBED = "The session's node has ended; connect again and subscribe."
_log = logging.getLogger(__name__)

Socket = aiohttp.ClientWebSocketResponse[bool]
Message = str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A socket to the session's node, and the way that it took."""

    socket: Socket
    route: Route


class _End(Enum):
    """How a node's socket ended, where that alone does not close the client's: by leave, or without."""

    LEFT = "left"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Closed:
    """That the client's socket is to be closed, and how; code None: it is closed."""

    code: int | None
    reason: str = ""


class _Owed:
    """The messages that were not answered yet, in the order sent: bounded, and kept to be sent again."""

    def __init__(self, *, messages_max: int, size_max: int) -> None:
        self._messages: deque[Message] = deque()
        self._size = 0
        self._messages_max = messages_max
        self._size_max = size_max
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    def all(self) -> tuple[Message, ...]:
        """Return them, oldest first."""
        return tuple(self._messages)

    def add(self, message: Message) -> None:
        """Owe one more answer."""
        self._messages.append(message)
        self._size += len(message)
        self._changed.set()

    def answered(self) -> None:
        """Take the oldest as answered."""
        if self._messages:
            self._size -= len(self._messages.popleft())
            self._changed.set()

    async def room_for(self, message: Message) -> None:
        """Wait until one more may be owed; one alone may always be."""
        while self._messages and (
            len(self._messages) >= self._messages_max or self._size + len(message) > self._size_max
        ):
            await self._change()

    async def any(self) -> None:
        """Wait until an answer is owed."""
        while not self._messages:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Conversation:
    """A client's socket, and the sockets of one node after the other.

    Args:
        receive, send: the client's, accepted before `run`.
        first: the node's socket to begin with.
        attach: opens a socket to the session's node, whichever that is now; raises GatewayError.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        first: Attached,
        *,
        attach: Callable[[], Awaitable[Attached]],
        resolver: Resolver,
        usage: Usage,
        limits: Limits,
    ) -> None:
        self._receive = receive
        self._send = send
        self._attach = attach
        self._resolver = resolver
        self._usage = usage
        self._limits = limits
        self._owed = _Owed(messages_max=limits.owed_max, size_max=limits.kept_bytes_max)
        self._sending = asyncio.Lock()  # whoever holds it decides what the node gets next
        self._session_id = first.route.session_id
        self._incarnation = first.route.incarnation
        self._node: Attached | None = first
        self._takes_messages = False
        self._subscribed = False
        self._fruitless = 0  # nodes in a row that left without an answer

    async def run(self) -> None:
        """Copy until the client's socket is closed, from whichever side."""
        inward = asyncio.create_task(self._from_client())
        outward = asyncio.create_task(self._from_nodes())
        try:
            await asyncio.wait((inward, outward), return_when=asyncio.FIRST_COMPLETED)
            if inward.done():
                inward.result()  # the client has gone, or something has gone wrong
                return
            closed = outward.result()
        finally:
            inward.cancel()
            outward.cancel()
            await asyncio.gather(inward, outward, return_exceptions=True)
        if closed.code is not None:
            await self._tell({"type": "websocket.close", "code": closed.code, "reason": closed.reason})

    async def close(self) -> None:
        """Let go of the node."""
        if self._node is not None:
            await self._node.socket.close()

    async def _from_client(self) -> None:
        """Take the client's messages until it is gone. Without a node the interface's own ping wakes none."""
        while (received := await self._receive())["type"] != "websocket.disconnect":
            text = received.get("text")
            message: Message = received["bytes"] if text is None else text
            pong = messages.pong(message)
            if pong is not None and self._node is None and not len(self._owed):
                await self._tell({"type": "websocket.send", "text": pong})
                continue
            if pong is None:
                self._usage.touch(self._session_id)
            await self._owed.room_for(message)
            async with self._sending:
                self._owed.add(message)
                if self._node is not None and self._takes_messages:
                    await _sent(self._node.socket, message)

    async def _from_nodes(self) -> _Closed:
        """Hand on what one node after the other says, until the client's socket is to be closed."""
        while True:
            if self._node is not None:
                end = await self._relayed(self._node.socket)
                if isinstance(end, _Closed):
                    return end
                closed = await self._left(self._node, end)
                if closed is not None:
                    return closed
            await self._owed.any()
            try:
                self._node = await self._attach()
            except GatewayError as error:
                await self._refuse_all(error)
            else:
                if self._node.route.incarnation != self._incarnation:
                    return _Closed(code=SERVICE_RESTART, reason=_SESSION_ENDED)
                _log.info("socket_reattached", extra={"node_id": self._node.route.node_id})

    async def _relayed(self, socket: Socket) -> _Closed | _End:
        """Have the node answer what is owed, and all that follows, until its socket ends."""
        catching_up = asyncio.create_task(self._catch_up(socket))
        try:
            return await self._copy_out(socket)
        finally:
            self._takes_messages = False
            catching_up.cancel()
            await asyncio.gather(catching_up, return_exceptions=True)

    async def _catch_up(self, socket: Socket) -> None:
        """Send what an earlier node has left unanswered; what comes in meanwhile waits for its turn."""
        async with self._sending:
            for message in self._owed.all():
                await _sent(socket, message)
            self._takes_messages = True

    async def _copy_out(self, socket: Socket) -> _Closed | _End:
        while True:
            received = await socket.receive()
            if received.type is aiohttp.WSMsgType.TEXT or received.type is aiohttp.WSMsgType.BINARY:
                is_text = received.type is aiohttp.WSMsgType.TEXT
                try:
                    await self._send({"type": "websocket.send", "text" if is_text else "bytes": received.data})
                except OSError:
                    return _Closed(code=None)
                self._note(received.data if is_text else "")
            elif received.type is not aiohttp.WSMsgType.CLOSE:
                return _End.BROKEN
            elif received.data == SERVICE_RESTART:
                return _End.LEFT
            else:
                code = 1000 if received.data in {None, _NO_STATUS} else int(received.data)
                return _Closed(code=code, reason=received.extra or "")

    def _note(self, text: str) -> None:
        """Keep account of what is owed, and of what this socket expects without asking again."""
        self._subscribed = self._subscribed or messages.is_event(text)
        if not messages.is_news(text):
            self._owed.answered()
            self._fruitless = 0

    async def _left(self, node: Attached, end: _End) -> _Closed | None:
        """Let go of a node whose socket has ended; return how the client's is to be closed, if it is."""
        self._node = None
        await node.socket.close()
        self._fruitless += 1
        owes = len(self._owed)
        closed: _Closed | None = None
        if owes and (end is _End.BROKEN or self._fruitless >= self._limits.tries_max):
            closed = _Closed(code=SERVICE_RESTART, reason=_UNANSWERED)
        elif self._subscribed:
            closed = _Closed(code=SERVICE_RESTART, reason=_UNSUBSCRIBED)
        facts = {"node_id": node.route.node_id, "how": end.value, "unanswered": owes, "kept": closed is None}
        _log.info("socket_detached", extra=facts)
        await report(self._resolver, node.route)
        return closed

    async def _refuse_all(self, error: GatewayError) -> None:
        """Answer everything that is owed with the reason why there is no node for it."""
        told = ErrorReply(code=error.code, message=error.message, details=error.details)
        for message in self._owed.all():
            await self._tell({"type": "websocket.send", "text": messages.error(told, message)})
            self._owed.answered()

    async def _tell(self, message: MutableMapping[str, object]) -> None:
        """Send to the client; that it is gone is found out by whoever listens to it."""
        with suppress(OSError):
            await self._send(message)


async def _sent(socket: Socket, message: Message) -> None:
    """Send to a node; that it is gone is found out by whoever listens to it."""
    with suppress(aiohttp.ClientError, ConnectionError):
        if isinstance(message, str):
            await socket.send_str(message)
        else:
            await socket.send_bytes(message)

"""The operations over one WebSocket: messages in order, an error is an answer, and the socket stays open.

A socket counts as activity only while one of its messages is served; pings, of the protocol or as messages, do not.
One that this node closes with 1012 has been answered every message that was applied: the others may be repeated.
A socket is about one session, which its handshake or its first message decides, and is closed when that one ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from kato_node.api.calls import HANDLERS, Call, retry_key
from kato_node.node import Node
from kato_node.service import Listener
from kato_node.wire import headers, messages, sessions, strict_json
from kato_node.wire.errors import BodyTooLarge, ErrorReply, InvalidRequest
from kato_node.wire.operations import MESSAGES, MessageType
from kato_node.wire.strict_json import Json

_log = logging.getLogger(__name__)
_RESTARTING = 1012
_TOO_SLOW = 1013
# Codes that mean: this node will not answer. The socket closes, and its client repeats the message through a new one.
_LOST = frozenset({"WRONG_NODE", "PROCESSOR_FENCED"})
_EVENTS_MAX = 20_000  # unsent events of one socket; one sequence may learn 10,000 patterns
_FRAME = frozenset({"type", "payload", "id"})
_TYPES = (*MESSAGES, "ping", "subscribe")

Explain = Callable[[Exception], ErrorReply]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """One message, as far as it could be read; `id` is echoed in its answer."""

    type: str = ""
    payload: Mapping[str, Json] = field(default_factory=dict)
    id: str | int | None = None


def websocket_routes(node: Node, explain: Explain, *, message_bytes_max: int) -> list[WebSocketRoute]:
    """Return the routes of /ws, with the session in the path or without.

    Args:
        explain: says what a caller is told of an exception, any exception.
    """

    async def serve(websocket: WebSocket) -> None:
        # The header is the gateway's word; a client of the gateway must not reach past it with a query.
        named = websocket.headers.get(headers.SESSION) or websocket.query_params.get("session_id")
        session_id = websocket.path_params.get("session_id") or named
        incarnation = websocket.headers.get(headers.INCARNATION)
        conversation = _Conversation(node, websocket, explain, session_id, incarnation, message_bytes_max)
        await websocket.accept()
        await conversation.run()

    return [WebSocketRoute(path, serve) for path in ("/ws", *(f"{root}/{{session_id}}/ws" for root in sessions.ROOTS))]


class _Conversation:
    """One socket, from its first message to its end."""

    def __init__(
        self,
        node: Node,
        websocket: WebSocket,
        explain: Explain,
        session_id: str | None,
        incarnation: str | None,
        message_bytes_max: int,
    ) -> None:
        self._node = node
        self._websocket = websocket
        self._explain = explain
        self._session_id = session_id
        self._incarnation = incarnation
        self._message_bytes_max = message_bytes_max
        self._leave: Callable[[], None] | None = None
        self._facts: dict[str, object] | None = None  # of each event, once it has subscribed
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[str] = asyncio.Queue(_EVENTS_MAX)
        self._sender: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer messages until either side closes."""
        try:
            while not self._closed:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                text = message.get("text")
                await self._answer(message["bytes"] if text is None else text.encode())
        except WebSocketDisconnect:
            pass  # gone while we were answering
        finally:
            if self._leave is not None:
                self._leave()
            if self._sender is not None:
                self._sender.cancel()

    async def _answer(self, raw: bytes) -> None:
        started_at_s = time.perf_counter()
        frame = _Frame()
        outcome = "okay"
        try:
            body = self._decoded(raw)
            frame = _Frame(id=_id(body))
            frame = _frame(body, frame.id)
            await self._serve(frame)
        except WebSocketDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is explained and the socket stays open
            told = self._explain(error)
            outcome = told.code
            if told.code in _LOST:
                await self._close(_RESTARTING, "this node is stopping, or the session has ended; connect again")
            else:
                await self._send("error", told.error, frame.id)
        if frame.type != "ping":
            ms = round((time.perf_counter() - started_at_s) * 1e3, 3)
            facts = {"type": frame.type, "message_id": frame.id, "outcome": outcome, "ms": ms}
            _log.info("message", extra=facts)

    def _decoded(self, raw: bytes) -> dict[str, Json]:
        if len(raw) > self._message_bytes_max:
            raise BodyTooLarge(self._message_bytes_max)
        body = strict_json.loads(raw)
        if not isinstance(body, dict):
            raise InvalidRequest([("body", "must be an object")])
        return body

    async def _serve(self, frame: _Frame) -> None:
        if frame.type == "ping":
            await self._send("pong", {}, frame.id)
        elif frame.type == "subscribe":
            await self._subscribe(frame)
        else:
            await self._operate(frame, MESSAGES[frame.type])

    async def _meet(self) -> None:
        """See that the session is still the one that this socket is about, and hear when it ends."""
        self._incarnation = await self._node.reads.meet(self._session_id, self._incarnation)
        if self._leave is None:
            listener = Listener(learned=self._learned, ended=self._session_ended)
            self._leave = self._node.service.listen(self._session_id, listener)

    async def _operate(self, frame: _Frame, message: MessageType) -> None:
        async with self._node.operation():
            await self._meet()  # nothing else is waited for until the session's turn is asked for
            key = None if frame.id is None else str(frame.id)
            body, arguments = _parameters(frame.payload, message)
            call = Call(
                service=self._node.service,
                reads=self._node.reads,
                patterns=self._node.patterns,
                session_id=self._session_id,
                body=body,
                arguments=arguments,
                retry=retry_key(message.operation, key, body, arguments, field="id"),
            )
            reply = await HANDLERS[message.operation.name](call)
            await self._send(message.reply, reply, frame.id)

    async def _subscribe(self, frame: _Frame) -> None:
        """Tell of each pattern that the session learns from now on; to subscribe again changes nothing."""
        async with self._node.operation():
            await self._meet()
            view = await self._node.reads.session(self._session_id)
            if self._facts is None:
                self._facts = {"session_id": view.session_id, "processor_id": self._node.service.processor_id}
                self._sender = asyncio.create_task(self._send_events())
            await self._send_text(messages.event(messages.SUBSCRIBED, self._facts, frame.id))

    def _learned(self, name: str) -> None:
        if self._facts is None:
            return
        if not self._events.full():
            self._events.put_nowait(messages.event(messages.NEWS, {**self._facts, "pattern_name": name}))
        else:  # one that does not read what it asked for; it may connect again and catch up
            self._hang_up(_TOO_SLOW, "events are not read")

    def _session_ended(self) -> None:
        self._hang_up(_RESTARTING, "the session has ended; connect again")

    def _hang_up(self, code: int, reason: str) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._quietly(self._close(code, reason)))
            if self._sender is not None:
                self._sender.cancel()

    async def _close(self, code: int, reason: str) -> None:
        if not self._closed:
            self._closed = True
            await self._websocket.close(code, reason)

    async def _send_events(self) -> None:
        while True:
            await self._quietly(self._send_text(await self._events.get()))

    async def _quietly(self, sending: Awaitable[None]) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):  # closed meanwhile; `run` sees it too
            await sending

    async def _send(self, kind: str, data: object, frame_id: str | int | None) -> None:
        await self._send_text(messages.message(kind, data, frame_id))

    async def _send_text(self, text: str) -> None:
        """Send, unless the socket was closed meanwhile. Raises: WebSocketDisconnect."""
        if self._closed:
            raise WebSocketDisconnect(_RESTARTING)
        await self._websocket.send_text(text)


def _frame(body: dict[str, Json], frame_id: str | int | None) -> _Frame:
    if unknown := sorted(body.keys() - _FRAME):
        raise InvalidRequest([(name, "unknown field") for name in unknown])
    kind, payload = body.get("type"), body.get("payload")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise InvalidRequest([("type", f"must be one of {', '.join(_TYPES)}")])
    if payload is not None and not isinstance(payload, dict):
        raise InvalidRequest([("payload", "must be an object")])
    return _Frame(type=kind, payload=payload or {}, id=frame_id)


def _id(body: dict[str, Json]) -> str | int | None:
    """Return what the caller calls this message. Raises: InvalidRequest for what could not be a key."""
    frame_id = body.get("id")
    if frame_id is None:
        return None
    if isinstance(frame_id, str | int) and not isinstance(frame_id, bool) and 1 <= len(str(frame_id)) <= 255:
        return frame_id
    raise InvalidRequest([("id", "must be a string of 1 to 255 characters, or an integer")])


def _parameters(payload: Mapping[str, Json], message: MessageType) -> tuple[dict[str, Json], dict[str, str]]:
    """Split the operation's parameters, which HTTP has in the path or the query, from the body."""
    body, arguments = dict(payload), {}
    for name in message.operation.parameters:
        value = body.pop(name, None)
        if isinstance(value, str):
            arguments[name] = value
        elif value is not None:
            raise InvalidRequest([(name, "must be a string")])
    return body, arguments

"""WS /events: what happens to sessions and nodes, as it happens; what there is, first.

    -> {"type": "snapshot", "data": {sessions, nodes}}      once
    -> {"type": "event", "data": {event, at, session_id, processor_id, node_id, reason}}
    <- {"type": "ping", "id"?}      -> {"type": "pong", "id"?}

A reader that falls too far behind is closed with 1013: it connects again, and begins with a snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, TypeAlias

from fastapi import APIRouter, Depends, WebSocket, WebSocketDisconnect

from kato_gateway.api.replies import moment
from kato_gateway.api.routes import caller
from kato_gateway.domain.owners import permits
from kato_gateway.domain.sessions import LIVE_STATUSES
from kato_gateway.events import Event
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.registry.base import SessionQuery
from kato_node.wire import strict_json
from kato_node.wire.errors import WireError
from kato_node.wire.strict_json import Json

BEHIND_MAX = 1_000
SESSIONS_MAX = 10_000
_TRY_AGAIN_LATER = 1013
_CLOSE_S = 5.0
Message: TypeAlias = dict[str, Json]


def watch_router(lifecycle: Lifecycle) -> APIRouter:
    """Return the route of WS /events."""

    async def serve(websocket: WebSocket, owner: Annotated[str | None, Depends(caller)]) -> None:
        await _Watch(lifecycle, websocket, owner).run()

    router = APIRouter()
    router.add_api_websocket_route("/events", serve)
    return router


class _Watch:
    """One reader of events."""

    def __init__(self, lifecycle: Lifecycle, websocket: WebSocket, owner: str | None) -> None:
        self._lifecycle = lifecycle
        self._websocket = websocket
        self._owner = owner
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue(maxsize=BEHIND_MAX)
        self._behind = asyncio.Event()

    async def run(self) -> None:
        """Tell until the reader leaves, or is too slow."""
        leave = self._lifecycle.events.subscribe(self._happened)  # before the snapshot: nothing falls between
        tasks: list[asyncio.Task[object]] = []
        try:
            await self._websocket.accept()
            snapshot = await self._snapshot()
            tasks = [
                asyncio.create_task(self._send_all(snapshot)),
                asyncio.create_task(self._read()),
                asyncio.create_task(self._behind.wait()),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leave()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._behind.is_set():
            with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
                async with asyncio.timeout(_CLOSE_S):
                    await self._websocket.close(_TRY_AGAIN_LATER, "too far behind; connect again")

    def _happened(self, event: Event) -> None:
        if permits(event.owner, caller=self._owner):
            self._put({"type": "event", "data": _told(event)})

    def _put(self, message: Message) -> None:
        try:
            self._outgoing.put_nowait(message)
        except asyncio.QueueFull:
            self._behind.set()

    async def _send_all(self, snapshot: Message) -> None:
        await self._send(snapshot)
        while True:
            await self._send(await self._outgoing.get())

    async def _send(self, message: Message) -> None:
        await self._websocket.send_text(strict_json.dumps(message).decode())

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            self._put(_answer(message.get("bytes") or (message.get("text") or "").encode()))

    async def _snapshot(self) -> Message:
        query = SessionQuery(owner=self._owner, statuses=LIVE_STATUSES)
        sessions = await self._lifecycle.directory.sessions(query, limit=SESSIONS_MAX)
        nodes = await self._lifecycle.directory.nodes()
        seen = {session.processor_id for session in sessions}
        return {
            "type": "snapshot",
            "data": {
                "sessions": [
                    {"session_id": each.session_id, "processor_id": each.processor_id, "status": each.status.value}
                    for each in sessions
                ],
                "nodes": [
                    {"node_id": node.node_id, "processor_id": node.processor_id, "state": node.state.value}
                    for node in nodes
                    if self._owner is None or node.processor_id in seen
                ],
            },
        }


def _told(event: Event) -> Message:
    return {
        "event": event.kind,
        "at": moment(event.at_s).isoformat(),
        "session_id": event.session_id,
        "processor_id": event.processor_id,
        "node_id": event.node_id,
        "reason": event.reason,
    }


def _answer(raw: bytes) -> Message:
    try:
        message = strict_json.loads(raw)
    except WireError as error:
        return _error(error.code, error.message)
    if not isinstance(message, dict) or message.get("type") != "ping":
        return _error("VALIDATION_ERROR", 'Only a ping is understood here: {"type": "ping"}.')
    return {"type": "pong", **({"id": message["id"]} if "id" in message else {})}


def _error(code: str, message: str) -> Message:
    return {"type": "error", "data": {"code": code, "message": message, "details": {}}}

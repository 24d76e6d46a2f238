"""The engine's events, as hints: which nodes of the deployment ended. A thread of its own follows the stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypedDict, cast

from docker import APIClient
from docker.errors import DockerException
from docker.types import CancellableStream
from urllib3.exceptions import HTTPError

from container_manager.runtimes.dockerspec import DEPLOYMENT, NODE

SILENCE_S = 10.0
_PAUSE_MIN_S, _PAUSE_MAX_S = 0.1, 5.0
_JOIN_S = 2.0
_UNHEARD_MAX = 1024
_NANO = 1_000_000_000
_OUT_OF_REACH = (DockerException, OSError, ValueError, HTTPError)  # whoever asks next says so
_log = logging.getLogger(__name__)


class _Actor(TypedDict):
    Attributes: dict[str, str]


class _Event(TypedDict):
    Actor: _Actor
    timeNano: int


class Exits:
    """Hears of ends, and tells whoever listens. After a break it asks for what it missed; the engine keeps some 256.

    Args:
        connect: makes a client whose sockets have this timeout. A stream that is silent for so long is opened again:
            nothing else tells a quiet engine from a connection that is dead.
        deployment: whose nodes.
    """

    def __init__(self, connect: Callable[[float], APIClient], deployment: str) -> None:
        self._connect = connect
        self._deployment = deployment
        self._listeners: weakref.WeakSet[asyncio.Queue[str | None]] = weakref.WeakSet()
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._follower: _Follower | None = None

    @property
    def is_open(self) -> bool:
        """Whether the stream is followed."""
        return self._follower is not None

    def open(self, since_s: float) -> None:
        """Follow the stream, from this time of the engine's clock on."""
        loop = asyncio.get_running_loop()

        def tell(node_id: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(self._heard, node_id)

        self._follower = _Follower(self._connect, self._deployment, int(since_s * _NANO), tell)

    async def close(self) -> None:
        """End the thread and every iterator."""
        follower, self._follower = self._follower, None
        if follower is not None:
            await asyncio.to_thread(follower.end)
        for listener in self._listeners:
            listener.put_nowait(None)

    def listen(self) -> AsyncIterator[str]:
        """Yield the node ids of ends, from this call on until the closing."""
        listener: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.add(listener)
        return _until_none(listener)

    @contextlib.contextmanager
    def of(self, node_id: str) -> Iterator[asyncio.Event]:
        """Provide an event that is set when this node is heard to have ended."""
        bell = asyncio.Event()
        bells = self._bells.setdefault(node_id, set())
        bells.add(bell)
        try:
            yield bell
        finally:
            bells.discard(bell)
            if not bells:
                self._bells.pop(node_id, None)

    def _heard(self, node_id: str) -> None:
        for bell in self._bells.get(node_id, ()):
            bell.set()
        for listener in self._listeners:
            if listener.qsize() < _UNHEARD_MAX:
                listener.put_nowait(node_id)


async def _until_none(listener: asyncio.Queue[str | None]) -> AsyncIterator[str]:
    while (node_id := await listener.get()) is not None:
        yield node_id


class _Follower:
    """The thread that reads the stream, again and again."""

    def __init__(
        self, connect: Callable[[float], APIClient], deployment: str, since_ns: int, tell: Callable[[str], None]
    ) -> None:
        self._connect = connect
        self._filters = {"type": ["container"], "event": ["die"], "label": [f"{DEPLOYMENT}={deployment}"]}
        self._since_ns = since_ns
        self._tell = tell
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._stream: CancellableStream[_Event] | None = None
        self._thread = threading.Thread(target=self._run, name="docker-events", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Interrupt the reading and wait for the thread; one that still connects ends within the silence."""
        with self._lock:
            self._ending.set()
            if self._stream is not None:
                _interrupt(self._stream)
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        pause_s = _PAUSE_MIN_S
        while not self._ending.is_set():
            try:
                self._follow()
                pause_s = _PAUSE_MIN_S
            except Exception as error:  # noqa: BLE001 - nobody would start this thread again
                if not isinstance(error, _OUT_OF_REACH):
                    _log.warning("events_not_understood", exc_info=error)
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)
            self._ending.wait(pause_s)

    def _follow(self) -> None:
        """Read one stream to its end."""
        client = self._connect(SILENCE_S)
        try:
            since = f"{self._since_ns // _NANO}.{self._since_ns % _NANO:09d}"
            # The stubs know whole seconds only; the engine takes nanoseconds.
            events = client.events(since=cast("int", since), filters=self._filters, decode=True)
            stream = cast("CancellableStream[_Event]", events)
            with self._lock:
                if self._ending.is_set():
                    _interrupt(stream)
                self._stream = stream
            self._read(stream)
        finally:
            with self._lock:
                self._stream = None
            client.close()

    def _read(self, stream: CancellableStream[_Event]) -> None:
        try:
            for event in stream:
                self._since_ns = max(self._since_ns, event["timeNano"] + 1)
                node_id = event["Actor"]["Attributes"].get(NODE)
                if node_id:
                    self._tell(node_id)
        except HTTPError:  # silence: its socket's time is up
            return
        finally:
            _interrupt(stream)


def _interrupt(stream: CancellableStream[_Event]) -> None:
    """Shut the stream's socket, whether somebody reads it, or nobody any more."""
    with contextlib.suppress(OSError, AttributeError):  # over already: docker-py finds no socket in it
        stream.close()

"""Exactly once, cell by cell: whatever is lost on the way, the same call again is applied once and gets its reply."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.chaos.real import points
from tests.e2e.gateway_process import PATIENCE_S, Gateway, Json, eventually, gateway
from tests.e2e.once_node import KILL_GATEWAY, LOST_MESSAGE
from tests.tcpproxy import TcpProxy

Way = Literal["http", "large", "socket"]
Fault = Literal["killed before commit", "killed after commit", "reply lost", "gateway killed", "gateway's reply lost"]

LARGE = ["x" * 60_000 + str(number) for number in range(50)]
OBSERVE: Json = {"strings": ["a", "b"]}
SEQUENCE: Json = {"observations": [{"strings": ["a"]}, {"strings": ["b"]}, {"strings": ["c"]}]}
CALLS: dict[str, tuple[Way, str, Json, list[list[str]]]] = {
    "observe": ("http", "observe", OBSERVE, [["a", "b"]]),
    "sequence": ("http", "observe-sequence", SEQUENCE, [["a"], ["b"], ["c"]]),
    "large": ("large", "observe", {"strings": LARGE}, [sorted(LARGE)]),
    "message": ("socket", "observe", OBSERVE, [["a", "b"]]),
    "sequence message": ("socket", "observe_sequence", SEQUENCE, [["a"], ["b"], ["c"]]),
}
FAULTS: tuple[Fault, ...] = (
    "killed before commit",
    "killed after commit",
    "reply lost",
    "gateway killed",
    "gateway's reply lost",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway after the other, whose nodes obey orders."""
    home = tmp_path_factory.mktemp("once") / "home"
    with gateway(home, program=("-m", "tests.e2e.once_gateway"), WARM_POOL_SIZE="2", LOG_LEVEL="WARNING") as served:
        yield served


class Line:
    """A way to the gateway on which a reply can be lost, run in a thread of its own."""

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        self._proxy = TcpProxy((at.hostname or "", at.port or 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    @contextmanager
    def open(self) -> Iterator[str]:
        """Yield the URL to call at."""
        self._thread.start()
        try:
            self._do(self._proxy.open())
            yield "http://{}:{}".format(*self._proxy.address)
        finally:
            self._do(self._proxy.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE_S)
            self._loop.close()

    def lose_next_reply(self) -> None:
        """Break the connection off in place of the reply to whatever is sent next."""

        async def arm() -> None:
            self._proxy.swallow_reply(lambda _: True)

        self._do(arm())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)


class Caller:
    """A client that makes one call until it is answered, each time with the same key.

    Attributes:
        failures: what it was told before, or met.
    """

    def __init__(self, running: Gateway, session_id: str, call: str) -> None:
        self.failures: list[object] = []
        self._running = running
        self._session_id = session_id
        self._way, self._name, self._body, _ = CALLS[call]
        self._key = uuid4().hex

    def answer(self, *, losing: Callable[[], None] | None = None, url: str | None = None) -> Json:
        """Return the reply.

        Args:
            losing: called before the first try, once the way is open; url: which the first try takes.
        """
        gives_key = self._way != "large" or url is not None
        while len(self.failures) < 200:
            address = url if url is not None and not self.failures else self._running.url
            try:
                return (
                    self._said(address, losing) if self._way == "socket" else self._posted(address, gives_key, losing)
                )
            except (httpx.HTTPError, ConnectionClosed, WebSocketException, OSError) as error:
                self.failures.append(error)
                if isinstance(error, httpx.HTTPStatusError) and not gives_key:
                    gives_key, self._key = True, _operation_id(error.response)
            losing = None
            if self._running.process.poll() is not None:
                self._running.process.communicate()
                self._running.start()
        raise AssertionError(f"never answered: {self.failures[:3]}")

    def _posted(self, address: str, gives_key: bool, losing: Callable[[], None] | None) -> Json:
        if losing is not None:
            losing()
        path = f"/sessions/{self._session_id}/{self._name}"
        named = {"Idempotency-Key": self._key} if gives_key else {}
        with httpx.Client(timeout=PATIENCE_S) as client:
            reply = client.post(address + path, json=self._body, headers=named).raise_for_status()
        answer: Json = reply.json()
        return answer

    def _said(self, address: str, losing: Callable[[], None] | None) -> Json:
        path = f"/sessions/{self._session_id}/ws"
        served, self._running.url = self._running.url, address
        try:
            opened = self._running.socket(path)
        finally:
            self._running.url = served
        with opened as socket:
            if losing is not None:
                losing()
            socket.send(json.dumps({"type": self._name, "payload": self._body, "id": self._key}))
            answer: Json = json.loads(socket.recv(timeout=PATIENCE_S))
        assert answer["type"] != "error", answer
        return answer


def _operation_id(refusal: httpx.Response) -> str:
    """Return what a call that was too large to be kept may be repeated with."""
    error = refusal.json()["error"]
    assert (refusal.status_code, error["code"]) == (502, "NODE_FAILED")
    return str(error["details"]["operation_id"])


def _ordered(running: Gateway, session_id: str, call: str, fault: Fault) -> Path | None:
    """Order the fault of the session's node; return the order, which is gone once it was obeyed."""
    lost = LOST_MESSAGE if CALLS[call][0] == "socket" else "lost-reply"
    orders = {
        "killed before commit": "before-commit",
        "killed after commit": "after-commit",
        "reply lost": lost,
        "gateway killed": KILL_GATEWAY,
    }
    if fault not in orders:
        return None
    points.order(running.home, session_id, orders[fault])
    (running.home / "chaos" / "gateway").write_text(str(running.process.pid))
    return running.home / "chaos" / session_id / orders[fault]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_applied_exactly_once(running: Gateway, call: str, fault: Fault) -> None:
    """The client repeats with the key that it chose, or was told: the call is applied once, its first reply given."""
    session_id = running.ask("POST", "/sessions")["session_id"]
    running.ask("POST", f"/sessions/{session_id}/observe", {"strings": ["before"]})
    order = _ordered(running, session_id, call, fault)
    caller = Caller(running, session_id, call)
    if order is None:
        line = Line(running.url)
        with line.open() as url:
            first = caller.answer(losing=line.lose_next_reply, url=url)
        assert caller.failures
    else:
        first = caller.answer(url=running.url if fault == "gateway killed" else None)
        assert not order.exists()
    if call == "large" and fault in {"killed before commit", "killed after commit", "reply lost"}:
        assert [type(failure) for failure in caller.failures] == [httpx.HTTPStatusError]
    applied = [["before"], *CALLS[call][3]]
    assert running.ask("GET", f"/sessions/{session_id}/stm")["stm"] == applied
    assert caller.answer(url=running.url) == first
    assert running.ask("GET", f"/sessions/{session_id}/stm")["stm"] == applied
    told = first.get("data", first)
    assert told.get("stm_length", told.get("final_stm_length")) == len(applied)
    eventually(lambda: running.ask("DELETE", f"/sessions/{session_id}"), "the end of the session")

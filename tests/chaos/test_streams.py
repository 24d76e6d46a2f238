"""Streaming over a WebSocket while nodes die: a client that repeats unanswered messages loses and doubles nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.e2e.gateway_process import PATIENCE_S, eventually, gateway

SEED = 20_262
KILLS = 12
WINDOW = 8


class Streamer:
    """Observes 0, 1, 2, … with ids, a few ahead of the answers; after a loss it repeats what was not answered.

    Attributes:
        answered: the events in the order in which they were answered; lengths: the STM's after each.
        closings: the codes with which its sockets were closed.
    """

    def __init__(self, dial: Callable[[], ClientConnection]) -> None:
        self.answered: list[list[str]] = []
        self.lengths: list[int] = []
        self.closings: list[int | None] = []
        self.refused: list[object] = []
        self._dial = dial
        self._unanswered: deque[int] = deque()
        self._next = 0
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def at_work(self) -> Iterator[Streamer]:
        """Stream until the end of the block, and until everything is answered."""
        self._thread.start()
        try:
            yield self
        finally:
            self._leave.set()
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive()

    def goes_on(self, count: int) -> Callable[[], bool]:
        """Return what tells whether `count` more messages have been answered since now."""
        before = len(self.answered)
        return lambda: len(self.answered) >= before + count

    def _run(self) -> None:
        while not self._leave.is_set() or self._unanswered:
            try:
                with self._dial() as socket:
                    self._stream(socket)
            except ConnectionClosed as closed:
                self.closings.append(None if closed.rcvd is None else closed.rcvd.code)
            except (OSError, WebSocketException):  # nobody listens there just now
                self._leave.wait(0.02)

    def _stream(self, socket: ClientConnection) -> None:
        for number in self._unanswered:
            _observe(socket, number)
        while not self._leave.is_set() or self._unanswered:
            while len(self._unanswered) < WINDOW and not self._leave.is_set():
                self._unanswered.append(self._next)
                self._next += 1
                _observe(socket, self._unanswered[-1])
            answer = json.loads(socket.recv(timeout=PATIENCE_S))
            if answer["type"] != "observation_result":
                self.refused.append(answer)
                continue
            assert answer["id"] == self._unanswered[0], "answers come in order"
            self.answered.append([str(self._unanswered.popleft())])
            self.lengths.append(answer["data"]["stm_length"])


def _observe(socket: ClientConnection, number: int) -> None:
    socket.send(json.dumps({"type": "observe", "payload": {"strings": [str(number)]}, "id": number}))


def _kills(streamer: Streamer, kill: Callable[[], None]) -> None:
    """Kill while it streams, after so many answers more each time that it happens in the middle of something else."""
    chance = random.Random(SEED)
    for _ in range(KILLS):
        eventually(streamer.goes_on(chance.randrange(1, 40)), "answers")
        kill()
    eventually(streamer.goes_on(WINDOW), "answers after the last kill")


def _whole(streamer: Streamer, stm: object) -> None:
    assert streamer.refused == []
    assert stm == streamer.answered
    assert streamer.lengths == list(range(1, len(streamer.answered) + 1))


def test_a_stream_through_the_gateway_loses_nothing(tmp_path: Path) -> None:
    """Through the gateway, nodes killed at many points: everything is applied once, in order, and answered once; what
    closes the socket is 1012.
    """
    with gateway(tmp_path / "home", WARM_POOL_SIZE="2", LOG_LEVEL="WARNING") as running:
        session_id = running.ask("POST", "/sessions")["session_id"]

        def kill() -> None:
            name = running.ask("GET", f"/sessions/{session_id}")["container_name"]
            pid = running.nodes().get(str(name).removeprefix("kato-"))
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

        with Streamer(lambda: running.socket(f"/sessions/{session_id}/ws")).at_work() as streamer:
            _kills(streamer, kill)
        _whole(streamer, running.ask("GET", f"/sessions/{session_id}/stm")["stm"])
        assert set(streamer.closings) == {1012}


def test_a_stream_whose_nodes_fall_asleep_never_notices(tmp_path: Path) -> None:
    """A socket with pauses as long as its nodes may idle is never closed, and each message is applied once."""
    with gateway(tmp_path / "home", WARM_POOL_SIZE="2", IDLE_TIMEOUT_S="0.1", LOG_LEVEL="WARNING") as running:
        session_id = running.ask("POST", "/sessions")["session_id"]
        chance = random.Random(SEED)
        with running.socket(f"/sessions/{session_id}/ws") as socket:
            for number in range(60):
                threading.Event().wait(0.1 + chance.uniform(-0.005, 0.03))  # about the moment at which a node leaves
                socket.send(json.dumps({"type": "observe", "payload": {"strings": [str(number)]}}))
                answer = json.loads(socket.recv(timeout=PATIENCE_S))
                assert answer["data"]["stm_length"] == number + 1, answer
        assert running.ask("GET", f"/sessions/{session_id}/stm")["length"] == 60


class _Static:
    """One static node after the other, on one home."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.start()

    def start(self) -> None:
        """Start a node and wait until it listens."""
        inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
        settings = {"PROCESSOR_ID": "p", "PORT": "0", "KATO_HOME": str(self._home)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kato_node"], env={**inherited, **settings}, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr is not None
        self._port = json.loads(self._process.stderr.readline())["port"]
        self._drain = threading.Thread(target=self._process.stderr.read)
        self._drain.start()

    def kill(self) -> None:
        """Kill it without warning."""
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._drain.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def restart(self) -> None:
        """Kill it, and start the next."""
        self.kill()
        self.start()

    def dial(self) -> ClientConnection:
        """Open a socket to the one that runs."""
        return connect(f"ws://127.0.0.1:{self._port}/ws", max_size=None)


def test_a_stream_to_a_node_itself_loses_nothing(tmp_path: Path) -> None:
    """Straight to a node that is killed and started again at many points: the same holds."""
    node = _Static(tmp_path)
    try:
        with Streamer(node.dial).at_work() as streamer:
            _kills(streamer, node.restart)
        with node.dial() as socket:
            socket.send('{"type": "get_stm"}')
            _whole(streamer, json.loads(socket.recv())["data"]["stm"])
    finally:
        node.kill()

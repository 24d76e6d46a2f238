"""Killing under load: what was acknowledged is there, once, in order, whatever died meanwhile."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.e2e.gateway_process import PATIENCE_S, Gateway, eventually, gateway

SEED = 20_261
NODE_KILLS = 12
GATEWAY_KILLS = 3


class Client:
    """Observes 0, 1, 2, … on one session, each again with its key until it is acknowledged.

    Attributes:
        refused: replies other than 200.
    """

    def __init__(self, running: Gateway, session_id: str) -> None:
        self.session_id = session_id
        self.acknowledged: list[list[str]] = []
        self.refused: list[str] = []
        self._running = running
        self._thread = threading.Thread(target=self._run)
        self._leave = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[Client]:
        """Observe until the end of the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._leave.set()
            self._thread.join(PATIENCE_S)

    def goes_on(self) -> Callable[[], bool]:
        """Return what tells whether another observation has been acknowledged since now."""
        before = len(self.acknowledged)
        return lambda: len(self.acknowledged) > before

    def _run(self) -> None:
        with httpx.Client(timeout=PATIENCE_S) as client:
            while not self._leave.is_set():
                event = [str(len(self.acknowledged))]
                while not self._acknowledged(client, event):
                    self._leave.wait(0.01)
                self.acknowledged.append(event)

    def _acknowledged(self, client: httpx.Client, event: list[str]) -> bool:
        url = f"{self._running.url}/sessions/{self.session_id}/observe"
        key = {"Idempotency-Key": f"{self.session_id}-{event[0]}"}
        try:
            reply = client.post(url, json={"strings": event}, headers=key)
        except httpx.HTTPError:
            return False
        if reply.status_code != 200:
            self.refused.append(reply.text)
        return reply.status_code == 200


def kill_a_node(running: Gateway, clients: list[Client], chance: random.Random) -> None:
    """Kill the node of one of the sessions."""
    node = running.ask("GET", f"/sessions/{chance.choice(clients).session_id}")["container_name"]
    pid = running.nodes().get(str(node).removeprefix("kato-"))
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def test_nothing_is_lost_doubled_or_reordered(tmp_path: Path) -> None:
    """While nodes, and now and then the gateway, are killed, each session holds exactly what it was acknowledged.

    A killed node costs its clients time and nothing else: no call through a living gateway fails.
    """
    chance = random.Random(SEED)
    with gateway(tmp_path / "home", WARM_POOL_SIZE="2", LOG_LEVEL="WARNING") as running:
        ids = [running.ask("POST", "/sessions", {"node_id": node_id})["session_id"] for node_id in ("p", "p", "q")]
        first, second, third = (Client(running, session_id) for session_id in ids)
        clients = [first, second, third]
        with first.at_work(), second.at_work(), third.at_work():
            for number in range(NODE_KILLS):
                if number % (NODE_KILLS // GATEWAY_KILLS) == 1:
                    running.kill()
                    running.start()
                kill_a_node(running, clients, chance)
                for client in clients:
                    eventually(client.goes_on(), "an acknowledgement after a kill")
        for client in clients:
            assert client.refused == []
            assert running.ask("GET", f"/sessions/{client.session_id}/stm")["stm"] == client.acknowledged

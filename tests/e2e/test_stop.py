"""SIGTERM to the gateway while something that it waits for hangs: it ends all the same, in time."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from kato_gateway.__main__ import END_MAX_S
from tests.e2e.gateway_process import PATIENCE_S, Gateway, gateway
from tests.mongo import StandIn

pytestmark = pytest.mark.slow
assert END_MAX_S < PATIENCE_S, "which is how long these tests wait"


def terminate(running: Gateway) -> int:
    """Send SIGTERM to the gateway alone; return its exit status."""
    running.process.terminate()
    running.process.communicate(timeout=PATIENCE_S)
    return running.process.returncode


@contextmanager
def half_a_request(running: Gateway) -> Iterator[socket.socket]:
    """Send a request of which the end never comes."""
    at = urlsplit(running.url)
    with socket.create_connection((at.hostname or "", at.port or 0)) as client:
        client.sendall(b"POST /sessions/s/observe HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        yield client


def test_a_node_and_a_client_that_hang(tmp_path: Path) -> None:
    """A stopped node is killed, and a client that never ends its request is cut off; exit status 0, nothing is left."""
    with gateway(tmp_path / "home") as running:
        running.ask("POST", "/sessions", {"session_id": "s"})
        with half_a_request(running):
            os.kill(running.pid_of("s"), signal.SIGSTOP)
            assert terminate(running) == 0
        assert running.nodes() == {}


def test_a_fork_server_that_hangs(tmp_path: Path) -> None:
    """A fork server that does not answer holds up neither the end of the nodes nor the gateway's."""
    with gateway(tmp_path / "home") as running:
        running.ask("POST", "/sessions", {"session_id": "s"})
        forks = [one for one in running.processes() if one.pid not in {running.process.pid, *running.nodes().values()}]
        assert forks
        for fork in forks:
            fork.suspend()
        try:
            assert terminate(running) == 0
            assert running.nodes() == {}
        finally:
            for fork in forks:
                fork.resume()


def test_a_mongodb_that_hangs(tmp_path: Path) -> None:
    """With a MongoDB that answers nothing the gateway ends, and its nodes; the next one finds every session."""
    with StandIn(tmp_path / "mongo") as mongo, gateway(tmp_path / "home", MONGO_URL=mongo.url) as running:
        running.ask("POST", "/sessions", {"session_id": "s"})
        running.ask("POST", "/sessions/s/observe", {"strings": ["a"]})
        mongo.freeze()
        assert terminate(running) == 0
        assert running.nodes() == {}
        mongo.thaw()
        running.start()
        assert running.ask("GET", "/sessions/s/stm")["stm"] == [["a"]]


@pytest.mark.parametrize(("stop_max_s", "end_max_s", "status"), [(0.5, 30.0, 0), (30.0, 0.5, 1)])
def test_whatever_hangs_there_is_an_end(tmp_path: Path, stop_max_s: float, end_max_s: float, status: int) -> None:
    """After its time the gateway hurries by itself, which kills what hangs; after some more it ends, with status 1."""
    program = (
        "import sys, kato_gateway.__main__ as gateway\n"
        f"gateway.STOP_MAX_S, gateway.END_MAX_S = {stop_max_s}, {end_max_s}\n"
        "sys.exit(gateway.main())"
    )
    with gateway(tmp_path / "home", program=("-c", program)) as running:
        running.ask("POST", "/sessions", {"session_id": "s"})
        node = psutil.Process(running.pid_of("s"))
        node.suspend()
        assert terminate(running) == status
        assert node.is_running() == (status != 0)
        for left in running.processes():  # they would end by themselves, but for the one that cannot
            left.kill()

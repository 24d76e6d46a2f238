"""A node that hangs, as a process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.gateway_process import gateway

pytestmark = pytest.mark.slow


def test_a_stopped_node_is_replaced_under_the_call_that_waits(tmp_path: Path) -> None:
    """A call on a node that was stopped (SIGSTOP) is answered by another one, and is applied once."""
    with gateway(tmp_path / "home", WARM_POOL_SIZE="1") as running:
        running.ask("POST", "/sessions", {"session_id": "s"})
        running.ask("POST", "/sessions/s/observe", {"strings": ["a"]})
        stopped = running.pid_of("s")
        os.kill(stopped, signal.SIGSTOP)
        assert running.ask("POST", "/sessions/s/observe", {"strings": ["b"]})["time"] == 2
        assert running.ask("GET", "/sessions/s/stm")["stm"] == [["a"], ["b"]]
        assert running.pid_of("s") != stopped

"""A whole installation whose disk fills up, and has room again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.gateway_process import PATIENCE_S, eventually, gateway

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk that fills up")

SIZE_BYTES = 48 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    root = tmp_path / "disk"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "kato-test", str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def fill(disk: Path, *, leave_bytes: int = 0) -> None:
    """Take all the room that there is, but so much."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        while (taken := shutil.disk_usage(disk).free - leave_bytes) > 0:
            file.write(bytes(min(taken, 2**20)))


def is_refusal(reply: httpx.Response) -> bool:
    """Whether the reply is an error that says when to come again."""
    return reply.status_code == 503 and int(reply.headers["Retry-After"]) >= 1


def test_an_installation_survives_a_full_disk(disk: Path) -> None:
    """While the disk is full, what needs room is 503 with Retry-After, through gateway and node, and what is read is
    there; once there is room all goes on without a restart, with exactly what was acknowledged.
    """
    with gateway(disk / "home") as running:
        session = running.ask("POST", "/sessions", {"node_id": "p"})["session_id"]
        for event in ("a", "b"):
            running.ask("POST", f"/sessions/{session}/observe", {"strings": [event]})
        running.ask("POST", f"/sessions/{session}/learn")
        running.ask("POST", f"/sessions/{session}/observe", {"strings": ["a"]})
        fill(disk)
        big = {"strings": ["c" * 60_000]}
        for _ in range(3):
            refused = running.call("POST", f"/sessions/{session}/observe", big)
            assert is_refusal(refused), refused.text
            assert "disk" in refused.json()["error"]["message"]
        assert running.ask("GET", f"/sessions/{session}/stm")["stm"] == [["a"]]
        refusals = [running.call("POST", "/sessions", {"metadata": {"x": "y" * 30_000}}) for _ in range(8)]
        assert any(is_refusal(reply) for reply in refusals), [reply.text for reply in refusals]
        assert all(reply.is_success or is_refusal(reply) for reply in refusals), [reply.text for reply in refusals]
        assert running.ask("GET", "/health")
        (disk / "ballast").unlink()
        running.ask("POST", f"/sessions/{session}/observe", big)
        assert running.ask("GET", f"/sessions/{session}/stm")["length"] == 2
        assert running.ask("GET", f"/sessions/{session}/patterns")["patterns"][0]["frequency"] == 1
        eventually(lambda: running.call("POST", "/sessions", {}).is_success, "a session")


def test_what_is_killed_on_a_full_disk_comes_back_with_room(disk: Path) -> None:
    """A node, and then the gateway, killed while the disk is full: calls are refused in time, nothing acknowledged is
    missing, and as soon as there is room the session is served again.
    """
    with gateway(disk / "home") as running:
        session = running.ask("POST", "/sessions", {"node_id": "p"})["session_id"]
        for event in ("a", "b", "c"):
            running.ask("POST", f"/sessions/{session}/observe", {"strings": [event]})
        pid = running.pid_of(session)
        fill(disk)
        os.kill(pid, signal.SIGKILL)
        for _ in range(3):
            reply = running.call("GET", f"/sessions/{session}/stm")
            assert is_refusal(reply) or reply.json()["stm"] == [["a"], ["b"], ["c"]], reply.text
        running.kill()
        (disk / "ballast").unlink()
        running.start()
        assert running.ask("GET", f"/sessions/{session}/stm")["stm"] == [["a"], ["b"], ["c"]]
        running.ask("POST", f"/sessions/{session}/observe", {"strings": ["d"]})


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 5, 8, 13, 21])
def test_a_start_without_room_is_one_line(disk: Path, pages: int) -> None:
    """A gateway that finds no room, or too little, does not start: one line says why, with exit status 1; with room it
    starts on what there is by then.
    """
    home = disk / "home"
    fill(disk, leave_bytes=pages * 4096)
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "kato_gateway"],
        env={**inherited, "KATO_HOME": str(home), "GATEWAY_PORT": "0", "LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("kato-gateway: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    (disk / "ballast").unlink()
    with gateway(home) as running:
        session = running.ask("POST", "/sessions", {})["session_id"]
        running.ask("POST", f"/sessions/{session}/observe", {"strings": ["a"]})

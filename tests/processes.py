"""Watching real processes from a test: who belongs to a home, waiting for a condition, and leaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from container_manager.runtimes.process import ProcessRuntime
from container_manager.spec import NodeSpec, NodeStatus, new_node_id

NODES = Path(__file__).parent / "nodes"
TINY = "tiny_node:run"
PATIENCE_S = 20.0
_POLL_S = 0.005


async def until(condition: Callable[[], object], *, what: str = "condition") -> None:
    """Wait until the condition holds. Raises: AssertionError if it does not for a long time."""
    give_up_at_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at_s, f"{what} never came"
        await asyncio.sleep(_POLL_S)


def processes_of(home: Path) -> set[int]:
    """Return the pids of a home's fork servers and nodes: all have the fork server's arguments, which name the home."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if {b"--home", str(home).encode()} <= set((entry / "cmdline").read_bytes().split(b"\0")):
                    found.add(int(entry.name))
    return found


def stat_of(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third on (state, ppid, pgrp, session …); None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def proc(pid: int | None, name: str) -> bytes:
    """Return what /proc/PID/NAME says."""
    return Path(f"/proc/{pid}/{name}").read_bytes()


def zombies_of(parent: int) -> set[int]:
    """Return the dead children that a process has not reaped."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    stats = {pid: stat_of(pid) for pid in pids}
    return {pid for pid, stat in stats.items() if stat and stat[0] == "Z" and int(stat[1]) == parent}


def fork_servers_of(home: Path) -> set[int]:
    """Return the pids of a home's fork servers: unlike nodes, and what is to become one, none of them forked them."""
    pids = processes_of(home)
    parents = {pid: stat[1] for pid in pids if (stat := stat_of(pid))}
    return {pid for pid, parent in parents.items() if int(parent) not in pids and not _has_open(pid, home / "run")}


def _has_open(pid: int, directory: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(str(link.readlink()).startswith(str(directory)) for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


async def assert_nothing_runs(home: Path) -> None:
    """Wait for every process of the home to end by itself; else kill it and complain."""
    try:
        await until(lambda: not processes_of(home), what=f"the end of {home}'s processes")
    finally:
        for pid in processes_of(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descriptors() -> set[str]:
    """Return our own open descriptors and what they lead to."""
    links = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.add(f"{path.name} -> {path.readlink()}")
    return {link for link in links if "/proc/" not in link}


def process_runtime(
    home: Path, deployment: str = "ours", *, linger_s: float = 1.0, log_bytes_max: int = 1_000_000
) -> ProcessRuntime:
    """Return a runtime of tiny nodes."""
    return ProcessRuntime(home, deployment, entry=TINY, path=[NODES], linger_s=linger_s, log_bytes_max=log_bytes_max)


def tiny_spec(behaviour: str = "", deployment: str = "ours", *, role: str = "node", **env: str) -> NodeSpec:
    """Return the spec of a tiny node of this behaviour (tests/nodes/tiny_node.py)."""
    return NodeSpec(
        node_id=new_node_id(),
        deployment=deployment,
        role=role,
        env={"TINY": behaviour, **env},
        created_at_s=time.time(),
    )


async def ask(status: NodeStatus, path: str = "/health") -> dict[str, object]:
    """GET a path of a node and return its JSON."""
    assert status.internal is not None
    url = status.internal.http_url + path

    def get() -> dict[str, object]:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as reply:
            return dict(json.loads(reply.read()))

    return await asyncio.to_thread(get)

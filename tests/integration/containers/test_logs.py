"""What nodes write stays bounded, and is kept for a while after them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from container_manager.runtimes.forkloop import GONE_LOGS_MAX
from container_manager.runtimes.process import ProcessRuntime
from tests.processes import ask, process_runtime, tiny_spec, until

TIMEOUT_S = 20.0
LOG_BYTES_MAX = 10_000


@pytest.fixture
async def runtime(home: Path) -> AsyncIterator[ProcessRuntime]:
    """A runtime that bounds logs tightly."""
    runtime = process_runtime(home, log_bytes_max=LOG_BYTES_MAX)
    await runtime.open()
    yield runtime
    for status in await runtime.list():
        await runtime.remove(status.node_id)
    await runtime.close()


def sizes(log: Path) -> tuple[int, int]:
    """Return the sizes in bytes of a log and of its old generation, -1 if that is missing."""
    old = log.with_name(log.name + ".1")
    return log.stat().st_size, old.stat().st_size if old.exists() else -1


async def test_a_log_is_rotated_at_its_bound(home: Path, runtime: ProcessRuntime) -> None:
    """A log beyond its bound becomes the old generation, and the node goes on writing to an empty one."""
    status = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    log = home / "logs" / f"{status.node_id}.log"
    await ask(status, f"/write/{LOG_BYTES_MAX}")
    await until(lambda: sizes(log) == (0, LOG_BYTES_MAX), what="the rotation")
    await ask(status, "/write/100")
    assert sizes(log) == (100, LOG_BYTES_MAX)
    await ask(status, f"/write/{3 * LOG_BYTES_MAX}")
    await until(lambda: sizes(log) == (0, LOG_BYTES_MAX), what="the second rotation")


async def test_a_small_log_is_left_alone(home: Path, runtime: ProcessRuntime) -> None:
    """A log within its bound is not rotated while one beyond it is."""
    small, large = [await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S) for _ in range(2)]
    await ask(small, "/write/100")
    await ask(large, f"/write/{LOG_BYTES_MAX + 1}")
    await until(lambda: sizes(home / "logs" / f"{large.node_id}.log")[0] == 0, what="the rotation")
    assert sizes(home / "logs" / f"{small.node_id}.log")[1] == -1


async def test_a_removed_nodes_log_is_kept(home: Path, runtime: ProcessRuntime) -> None:
    """A node that is gone leaves its log to whoever wants to know why."""
    status = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    await runtime.remove(status.node_id)
    assert "begins" in (home / "logs" / f"{status.node_id}.log").read_text()


async def test_old_logs_of_gone_nodes_are_pruned(home: Path) -> None:
    """Of the logs of gone nodes the newest are kept, up to a bound, and those of listed nodes all."""
    logs = home / "logs"
    logs.mkdir(parents=True)
    (home / "run").mkdir()
    for number in range(GONE_LOGS_MAX + 10):
        (logs / f"gone{number}.log").write_text("")
        (logs / f"gone{number}.log.1").write_text("")
        os.utime(logs / f"gone{number}.log", (number, number))
    (logs / "dead.log").write_text("")
    os.utime(logs / "dead.log", (1, 1))
    (home / "run" / "dead.json").write_text("{")
    runtime = process_runtime(home)
    await runtime.open()
    await until(lambda: not (logs / "gone9.log.1").exists(), what="the pruning")
    kept = {f"gone{number}.log" for number in range(10, GONE_LOGS_MAX + 10)} | {"dead.log"}
    assert {path.name for path in logs.glob("*.log")} == kept
    await runtime.close()

"""What the process runtime believes of lock files, and whom it dares to signal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from container_manager.errors import NameTaken, RuntimeUnavailable
from container_manager.runtimes import lockfiles
from container_manager.runtimes.process import ProcessRuntime
from container_manager.spec import Liveness
from tests.processes import ask, process_runtime, processes_of, tiny_spec, until

TIMEOUT_S = 20.0


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of the runtime's business."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        assert process.poll() is None, "the bystander was harmed"
        process.kill()


def claim(home: Path, node_id: str, pid: int, *, start_ticks: int | None = None) -> Path:
    """Write a lock file that says that this process is the node; its lock is free."""
    record = {
        "node_id": node_id,
        "pid": pid,
        "start_ticks": start_ticks or lockfiles.start_ticks(pid),
        "port": 9,
        "deployment": "ours",
        "role": "node",
        "spec_hash": "",
        "created_at_s": 1.0,
        "request": "",
    }
    path = home / "run" / f"{node_id}.json"
    path.write_text(json.dumps(record))
    return path


async def test_a_lock_file_says_what_there_is_to_know(home: Path, runtime: ProcessRuntime) -> None:
    """A node's lock file has its pid, start time, port, deployment, role, spec hash and date."""
    spec = tiny_spec(role="static")
    status = await runtime.start(spec, timeout_s=TIMEOUT_S)
    record = json.loads((home / "run" / f"{spec.node_id}.json").read_text())
    assert status.internal is not None
    assert record["pid"] == (await ask(status, "/facts"))["pid"]
    assert record["start_ticks"] == lockfiles.start_ticks(record["pid"])
    told = [record[name] for name in ("port", "deployment", "role", "spec_hash", "created_at_s")]
    assert told == [status.internal.port, "ours", "static", spec.spec_hash, spec.created_at_s]


async def test_a_free_lock_is_a_dead_node(
    home: Path, runtime: ProcessRuntime, bystander: subprocess.Popen[bytes]
) -> None:
    """A lock file whose lock is free is a dead node, whoever has its pid now; nobody is signalled for it."""
    claim(home, "reused", bystander.pid)
    assert (await runtime.status("reused")).liveness is Liveness.DEAD
    await runtime.stop("reused", grace_s=0.0)
    await runtime.remove("reused")
    assert await runtime.list() == []


async def test_a_reused_pid_is_not_signalled(
    home: Path, runtime: ProcessRuntime, bystander: subprocess.Popen[bytes]
) -> None:
    """A held lock whose pid belongs to a younger process is alive and cannot be stopped: that process is another."""
    with claim(home, "reused", bystander.pid, start_ticks=1).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert (await runtime.status("reused")).liveness is Liveness.ALIVE
        for refused in (runtime.stop("reused", grace_s=0.0), runtime.remove("reused")):
            with pytest.raises(RuntimeUnavailable, match="not the one that holds its lock"):
                await refused


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"node_id": "x", "pid": "1"}'])
async def test_a_held_lock_that_says_nothing_is_unknown(home: Path, runtime: ProcessRuntime, content: str) -> None:
    """A held lock file that cannot be understood is unknown and listed, and not touched."""
    path = home / "run" / "x.json"
    path.write_text(content)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert (await runtime.status("x")).liveness is Liveness.UNKNOWN
        assert [(status.node_id, status.liveness) for status in await runtime.list()] == [("x", Liveness.UNKNOWN)]
        with pytest.raises(RuntimeUnavailable, match="cannot be understood"):
            await runtime.remove("x")
    path.unlink()


async def test_a_free_lock_that_says_nothing_is_unknown(home: Path, runtime: ProcessRuntime) -> None:
    """A lock file with content that cannot be understood is unknown, even if its lock is free."""
    path = home / "run" / "x.json"
    path.write_text("{")
    assert (await runtime.status("x")).liveness is Liveness.UNKNOWN
    path.unlink()


async def test_what_a_power_cut_leaves_is_dead(home: Path, runtime: ProcessRuntime) -> None:
    """An empty lock file with a free lock is dead, is not listed, and can be removed, so that its id is free again."""
    spec = tiny_spec()
    (home / "run" / f"{spec.node_id}.json").write_text("")
    assert (await runtime.status(spec.node_id)).liveness is Liveness.DEAD
    assert await runtime.list() == []
    with pytest.raises(NameTaken):
        await runtime.start(spec, timeout_s=TIMEOUT_S)
    await runtime.remove(spec.node_id)
    assert (await runtime.start(spec, timeout_s=TIMEOUT_S)).liveness is Liveness.ALIVE


async def test_a_file_that_cannot_be_opened_is_unknown(home: Path, runtime: ProcessRuntime) -> None:
    """A lock file that is no file is unknown."""
    path = home / "run" / "x.json"
    path.symlink_to("elsewhere")
    assert (await runtime.status("x")).liveness is Liveness.UNKNOWN
    path.unlink()


@pytest.mark.parametrize("node_id", ["../secret", "a/b", "", ".", "A" * 200, "x.json"])
async def test_a_strange_id_reaches_no_file(home: Path, runtime: ProcessRuntime, node_id: str) -> None:
    """An id that no node can have is dead, whatever file it might name, and stopping or removing it does nothing."""
    (home / "secret.json").write_text("{}")
    assert (await runtime.status(node_id)).liveness is Liveness.DEAD
    await runtime.stop(node_id, grace_s=0.0)
    await runtime.remove(node_id)
    assert (home / "secret.json").exists()


async def test_a_lock_outlives_no_node(home: Path, runtime: ProcessRuntime) -> None:
    """A node's lock is held by its process alone: killed, it is dead at once, with the fork server there or not."""
    spec = tiny_spec()
    await runtime.start(spec, timeout_s=TIMEOUT_S)
    siblings = await asyncio.gather(*(runtime.start(tiny_spec(), timeout_s=TIMEOUT_S) for _ in range(3)))
    await runtime.stop(spec.node_id, grace_s=0.0)
    assert (await runtime.status(spec.node_id)).liveness is Liveness.DEAD
    assert {(await runtime.status(each.node_id)).liveness for each in siblings} == {Liveness.ALIVE}


async def test_a_fork_servers_home_is_cleared_of_scraps(home: Path, runtime: ProcessRuntime) -> None:
    """A fork server deletes half-made lock files that it finds, and leaves others alone."""
    await runtime.close()
    await until(lambda: not processes_of(home), what="the end of the fork server")
    (home / "run" / ".x.0123456789ab").write_text("")
    (home / "run" / "empty.json").write_text("")
    claim(home, "dead", 1)
    other = process_runtime(home)
    await other.open()
    node_id = (await other.start(tiny_spec(), timeout_s=TIMEOUT_S)).node_id
    await other.remove(node_id)
    assert [path.name for path in (home / "run").iterdir()] == ["dead.json"]
    await other.remove("dead")
    await other.close()

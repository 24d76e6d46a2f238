"""What a node of the process runtime is born with, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from container_manager.errors import ContainerError, RuntimeUnavailable, StartFailed, StartTimeout
from container_manager.runtimes.forking import BASICS
from container_manager.runtimes.process import ProcessRuntime
from container_manager.spec import Liveness
from tests.processes import (
    ask,
    descriptors,
    fork_servers_of,
    proc,
    process_runtime,
    processes_of,
    stat_of,
    tiny_spec,
    until,
    zombies_of,
)

TIMEOUT_S = 20.0


def modes_under(home: Path) -> dict[str, int]:
    """Return the permission bits of everything in a home, by name."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in [home, *home.rglob("*")]}


async def test_the_environment_is_the_specs(runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node sees its spec's settings, its address, its id and the basics of a process, and nothing of ours."""
    monkeypatch.setenv("OURS_ALONE", "1")
    spec = tiny_spec(PROCESSOR_ID="p", EMPTY="", UNUSUAL="a=b c\n“é”")
    status = await runtime.start(spec, timeout_s=TIMEOUT_S)
    environment = (await ask(status, "/facts"))["environment"]
    assert isinstance(environment, dict)
    assert status.internal is not None
    own = {"HOST": "127.0.0.1", "PORT": str(status.internal.port), "NODE_ID": spec.node_id}
    assert {**spec.env, **own}.items() <= environment.items()
    assert set(environment) - set(spec.env) - set(own) <= set(BASICS)


async def test_a_later_fork_server_has_nothing_of_ours_either(
    home: Path, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in our environment when a fork server is started does not reach its nodes."""
    monkeypatch.setenv("OURS_ALONE", "1")
    (server,) = fork_servers_of(home)
    os.kill(server, signal.SIGKILL)
    environment = (await ask(await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S), "/facts"))["environment"]
    assert isinstance(environment, dict)
    assert "OURS_ALONE" not in environment
    assert "PYTHONPATH" not in environment


async def test_secrets_are_in_no_process_list(home: Path, runtime: ProcessRuntime) -> None:
    """What is in a spec's settings stands in no command line and in no environment that others can read."""
    await runtime.start(tiny_spec(MONGO_URL="mongodb://u:geheim@h"), timeout_s=TIMEOUT_S)
    pids = processes_of(home)
    assert len(pids) == 2
    for pid in pids:
        for name in ("cmdline", "environ"):
            assert b"geheim" not in proc(pid, name)


async def test_nothing_is_inherited(home: Path, runtime: ProcessRuntime) -> None:
    """A node has its log, its lock, its listening socket and /dev/null open, whatever others are there."""
    statuses = [await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S) for _ in range(3)]
    for status in statuses:
        links = (await ask(status, "/facts"))["descriptors"]
        assert isinstance(links, list)
        listening_and_asked = [link for link in links if link.startswith("socket:")]
        assert len(listening_and_asked) == 2
        log = f"{home}/logs/{status.node_id}.log"
        null, out, err, lock = (link for link in links if not link.startswith("socket:"))
        assert (null, out, err) == ("/dev/null", log, log)
        assert lock.startswith(f"{home}/run/.{status.node_id}.")


async def test_a_node_has_a_session_of_its_own(runtime: ProcessRuntime) -> None:
    """No terminal signal of ours reaches a node: each is in another session than we and than its siblings."""
    facts = [await ask(await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S), "/facts") for _ in range(2)]
    assert len({fact["session"] for fact in facts} | {os.getsid(0)}) == 3
    for fact in facts:
        assert isinstance(fact["pid"], int)
        fields = stat_of(fact["pid"])
        assert fields is not None
        assert fields[4] == "0"  # tty_nr: none
        assert fact["session"] != fact["pid"]  # so it can never get one


async def test_a_node_can_be_recognised(runtime: ProcessRuntime) -> None:
    """A node's name in a process list begins with kato- and its id."""
    status = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    assert proc(status.pid, "comm").decode() == f"kato-{status.node_id}"[:15] + "\n"


async def test_signals_and_files_are_as_in_a_fresh_process(runtime: ProcessRuntime) -> None:
    """No signal is blocked in a node, and what it creates is private."""
    facts = await ask(await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S), "/facts")
    assert (facts["blocked"], facts["umask"]) == ([], 0o077)


async def test_the_homes_files_are_private(home: Path, runtime: ProcessRuntime) -> None:
    """Every directory of the home is 0700 and every file 0600, those of the fork server too."""
    await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    modes = modes_under(home)
    assert set(modes) >= {"home", "run", "logs", "forkserver", "lock", "socket", "log"}
    private_by_kind = {
        name: 0o700 if name in {"home", "run", "logs", "forkserver", "socket"} else 0o600 for name in modes
    }
    assert modes == private_by_kind


async def test_status_tells_pid_and_memory(runtime: ProcessRuntime) -> None:
    """A living node's status has its pid and its resident memory."""
    status = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    assert status.pid == (await ask(status, "/facts"))["pid"]
    assert status.memory_bytes is not None
    assert status.memory_bytes > 1_000_000


async def test_a_stubborn_node_is_killed_after_its_grace(runtime: ProcessRuntime) -> None:
    """A node that ignores SIGTERM is dead when stop returns."""
    node_id = (await runtime.start(tiny_spec("stubborn"), timeout_s=TIMEOUT_S)).node_id
    await runtime.stop(node_id, grace_s=0.05)
    assert (await runtime.status(node_id)).liveness is Liveness.DEAD


async def test_a_stop_with_no_grace_asks_nothing(runtime: ProcessRuntime) -> None:
    """A stop without grace kills."""
    node_id = (await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)).node_id
    await runtime.stop(node_id, grace_s=0.0)
    assert (await runtime.status(node_id)).liveness is Liveness.DEAD


async def test_a_suspended_node_can_be_stopped(runtime: ProcessRuntime) -> None:
    """A node that cannot run at all is killed all the same."""
    status = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    assert status.pid is not None
    os.kill(status.pid, signal.SIGSTOP)
    await runtime.stop(status.node_id, grace_s=0.05)
    assert (await runtime.status(status.node_id)).liveness is Liveness.DEAD


async def test_a_node_that_ends_at_once_says_why(runtime: ProcessRuntime) -> None:
    """The error of a failed start ends with what the node logged."""
    with pytest.raises(StartFailed, match="exit is not a way to live"):
        await runtime.start(tiny_spec("exit"), timeout_s=TIMEOUT_S)


async def test_a_node_that_raises_says_where(runtime: ProcessRuntime) -> None:
    """The traceback of a node that breaks is in its log, and so in the error."""
    with pytest.raises(StartFailed, match="RuntimeError: tiny trouble"):
        await runtime.start(tiny_spec("raise"), timeout_s=TIMEOUT_S)


async def test_an_unready_node_is_told_from_a_silent_one(runtime: ProcessRuntime) -> None:
    """The error of a start that took too long says what the health check met last."""
    with pytest.raises(StartTimeout, match="status 503"):
        await runtime.start(tiny_spec("unready"), timeout_s=0.3)


async def test_an_impossible_environment_is_refused(runtime: ProcessRuntime) -> None:
    """A setting that no process can have fails the start, and the fork server goes on."""
    with pytest.raises(StartFailed, match="null byte"):
        await runtime.start(tiny_spec(BAD="a\0b"), timeout_s=TIMEOUT_S)
    assert (await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)).liveness is Liveness.ALIVE


async def test_another_deployments_spec_is_not_started(runtime: ProcessRuntime) -> None:
    """A runtime refuses to start a node for a deployment that is not its own."""
    with pytest.raises(ValueError, match="theirs"):
        await runtime.start(tiny_spec(deployment="theirs"), timeout_s=TIMEOUT_S)


async def test_dead_nodes_leave_no_zombies(home: Path, runtime: ProcessRuntime) -> None:
    """However nodes end, the fork server reaps them, and the processes that forked them."""
    (server,) = fork_servers_of(home)
    statuses = [await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S) for _ in range(4)]
    for status, number in zip(statuses, (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV), strict=False):
        assert status.pid is not None
        os.kill(status.pid, number)
    await runtime.stop(statuses[-1].node_id, grace_s=TIMEOUT_S)
    await until(lambda: processes_of(home) == {server} and not zombies_of(server), what="the last reaping")


async def test_a_dead_node_says_what_it_died_of(runtime: ProcessRuntime) -> None:
    """Whoever heard of its end knows its exit status, 128 + n for a death by signal n."""
    exits = runtime.exits()
    for number, expected in ((signal.SIGKILL, 137), (signal.SIGTERM, 0)):
        status = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
        assert status.exit_status is None
        assert status.pid is not None
        os.kill(status.pid, number)
        assert await anext(exits) == status.node_id
        dead = await runtime.status(status.node_id)
        assert (dead.liveness, dead.exit_status) == (Liveness.DEAD, expected)
        await runtime.remove(status.node_id)


async def test_starts_and_stops_cost_no_descriptors(home: Path, runtime: ProcessRuntime) -> None:
    """Neither we nor the fork server have more open after many starts, failures included, than before."""
    (server,) = fork_servers_of(home)

    def of_server() -> int:
        return len(list(Path(f"/proc/{server}/fd").iterdir()))

    ours, theirs = descriptors(), of_server()
    for behaviour in ("", "exit", "", "raise", ""):
        try:
            await runtime.remove((await runtime.start(tiny_spec(behaviour), timeout_s=TIMEOUT_S)).node_id)
        except StartFailed:
            continue
    assert descriptors() - ours == set()
    await until(lambda: of_server() == theirs, what="the closing of what was open for nodes")


async def test_a_home_with_a_long_path_serves(tmp_path: Path) -> None:
    """A home whose path is longer than a socket's may be works like any other."""
    home = tmp_path / ("a" * 100) / ("b" * 100)
    runtime = process_runtime(home)
    await runtime.open()
    node_id = (await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)).node_id
    await runtime.remove(node_id)
    await runtime.close()
    await until(lambda: not processes_of(home))


async def test_a_home_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    """A home that cannot be created fails the opening, and the message names KATO_HOME."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeUnavailable, match="KATO_HOME"):
        await process_runtime(tmp_path / "file" / "home").open()


async def test_a_node_that_vanishes_during_its_start_is_no_success(home: Path, runtime: ProcessRuntime) -> None:
    """A node that is removed by somebody else while it starts fails its start."""
    spec = tiny_spec("silent")
    start = asyncio.create_task(runtime.start(spec, timeout_s=TIMEOUT_S))
    await until((home / "run" / f"{spec.node_id}.json").exists, what="the node's lock file")
    await runtime.remove(spec.node_id)
    with pytest.raises(ContainerError):
        await start

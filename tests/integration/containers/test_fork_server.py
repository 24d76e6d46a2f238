"""The fork server's own life: crashes, successors, strangers, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from container_manager.errors import ContainerError, RuntimeUnavailable
from container_manager.runtimes.process import ProcessRuntime
from container_manager.spec import Liveness, new_node_id
from tests.processes import NODES, ask, fork_servers_of, process_runtime, processes_of, tiny_spec, until, zombies_of

TIMEOUT_S = 20.0


def server_of(home: Path) -> int:
    """Return the pid of the home's only fork server."""
    (server,) = fork_servers_of(home)
    return server


@contextlib.contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Suspend a process for a while, if it lives that long."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# Crashes.


async def test_nodes_survive_a_killed_fork_server(home: Path, runtime: ProcessRuntime) -> None:
    """With its fork server killed, a node answers, is listed, and can be stopped and removed."""
    statuses = [await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S) for _ in range(2)]
    os.kill(server_of(home), signal.SIGKILL)
    for status in statuses:
        assert (await ask(status))["status"] == "healthy"
        assert (await runtime.status(status.node_id)).liveness is Liveness.ALIVE
    assert len(await runtime.list()) == 2
    await runtime.stop(statuses[0].node_id, grace_s=TIMEOUT_S)
    await runtime.remove(statuses[1].node_id)
    assert [status.liveness for status in await runtime.list()] == [Liveness.DEAD]


async def test_the_next_start_brings_up_a_new_fork_server(home: Path, runtime: ProcessRuntime) -> None:
    """With the fork server killed, the next start succeeds through another one."""
    former = server_of(home)
    os.kill(former, signal.SIGKILL)
    await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    assert server_of(home) != former


async def test_a_new_fork_server_tells_of_the_former_ones_nodes(home: Path, runtime: ProcessRuntime) -> None:
    """A node that a killed fork server started is watched by the next one: its exit is heard of."""
    exits = runtime.exits()
    node_id = (await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)).node_id
    former = server_of(home)
    os.kill(former, signal.SIGKILL)
    await until(lambda: fork_servers_of(home) - {former}, what="the next fork server")
    await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    await runtime.stop(node_id, grace_s=TIMEOUT_S)
    assert await anext(exits) == node_id


async def test_a_start_survives_the_fork_servers_death(home: Path, runtime: ProcessRuntime) -> None:
    """A start whose fork server is killed before it answers succeeds through the next one, once."""
    server = server_of(home)
    spec = tiny_spec()
    with suspended(server):
        start = asyncio.create_task(runtime.start(spec, timeout_s=TIMEOUT_S))
        await asyncio.wait({start}, timeout=0.1)
        os.kill(server, signal.SIGKILL)
    status = await start
    assert [found.pid for found in await runtime.list()] == [status.pid]
    await until(lambda: len(processes_of(home)) == 2, what="one fork server and one node")


async def test_a_stuck_fork_server_fails_a_start_in_time(home: Path, runtime: ProcessRuntime) -> None:
    """A fork server that does not run fails starts with RuntimeUnavailable; running again, it starts none of them."""
    with suspended(server_of(home)), pytest.raises(RuntimeUnavailable, match="fork server"):
        await runtime.start(tiny_spec(), timeout_s=0.1)
    last = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    await until(lambda: len(processes_of(home)) == 2, what="one fork server and one node")
    assert [status.node_id for status in await runtime.list()] == [last.node_id]


async def test_a_start_cancelled_before_it_was_heard_is_never_made(home: Path, runtime: ProcessRuntime) -> None:
    """A start that is cancelled, and cancelled again, while the fork server is stuck makes no node later."""
    with suspended(server_of(home)):
        start = asyncio.create_task(runtime.start(tiny_spec(), timeout_s=TIMEOUT_S))
        await asyncio.wait({start}, timeout=0.1)
        for _ in range(2):
            start.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await start
    await runtime.close()
    assert await runtime.list() == []
    await until(lambda: not processes_of(home), what="the end of the fork server")


# Its end.


async def test_it_ends_when_nobody_needs_it(home: Path) -> None:
    """A fork server without nodes and clients ends by itself after its time."""
    runtime = process_runtime(home, linger_s=0.2)
    await runtime.open()
    server_of(home)
    await runtime.close(leave_nodes=True)
    await until(lambda: not processes_of(home), what="its end")


async def test_it_stays_while_a_node_lives(home: Path) -> None:
    """A closed runtime's fork server stays for its node, and ends with it at once."""
    runtime = process_runtime(home, linger_s=600.0)
    await runtime.open()
    status = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    await runtime.close()
    assert (await ask(status))["status"] == "healthy"
    server_of(home)
    await runtime.remove(status.node_id)
    await until(lambda: not processes_of(home), what="its end")


async def test_closing_ends_it_at_once(home: Path) -> None:
    """A runtime that is closed while no node lives ends its fork server, however patient that is."""
    runtime = process_runtime(home, linger_s=600.0)
    await runtime.open()
    await runtime.close()
    await until(lambda: not processes_of(home), what="its end")


async def test_closing_one_of_two_runtimes_ends_nothing(home: Path) -> None:
    """A fork server that another runtime uses goes on."""
    first, second = process_runtime(home), process_runtime(home)
    await first.open()
    await second.open()
    await first.close()
    node_id = (await second.start(tiny_spec(), timeout_s=TIMEOUT_S)).node_id
    await second.remove(node_id)
    await second.close()


async def test_asked_to_end_it_waits_for_its_nodes(home: Path, runtime: ProcessRuntime) -> None:
    """On SIGTERM a fork server takes no more nodes, leaves those that it has alone, and ends with the last."""
    status = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    former = server_of(home)
    os.kill(former, signal.SIGTERM)
    await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    assert (await ask(status))["status"] == "healthy"
    assert former in processes_of(home)
    await runtime.remove(status.node_id)
    await until(lambda: former not in processes_of(home), what="its end")


# One per home.


async def test_runtimes_that_open_at_once_share_one(home: Path) -> None:
    """Several runtimes that open an empty home at the same time end up with one fork server."""
    runtimes = [process_runtime(home) for _ in range(5)]
    await asyncio.gather(*(runtime.open() for runtime in runtimes))
    nodes = await asyncio.gather(*(runtime.start(tiny_spec(), timeout_s=TIMEOUT_S) for runtime in runtimes))
    await until(lambda: len(fork_servers_of(home)) == 1, what="the end of those that came too late")
    await asyncio.gather(*(runtimes[0].remove(node.node_id) for node in nodes))
    await asyncio.gather(*(runtime.close() for runtime in runtimes))


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory with a copy of the tiny node, to be changed."""
    code = tmp_path / "code"
    code.mkdir()
    shutil.copy(NODES / "tiny_node.py", code)
    return code


async def test_new_code_takes_over(home: Path, code: Path) -> None:
    """When the code has changed, the next runtime gets a new fork server; the former one ends with its last node."""
    former, latter = (ProcessRuntime(home, "ours", entry="tiny_node:run", path=[code]) for _ in range(2))
    await former.open()
    old_server = server_of(home)
    old_node = await former.start(tiny_spec(), timeout_s=TIMEOUT_S)
    source = code / "tiny_node.py"
    source.write_text(source.read_text().replace('"healthy"', '"like new"'))
    await latter.open()
    exits = former.exits()
    answers = [
        (await ask(node))["status"]
        for node in (
            old_node,
            await latter.start(tiny_spec(), timeout_s=TIMEOUT_S),
            await former.start(tiny_spec(), timeout_s=TIMEOUT_S),
        )
    ]
    assert answers == ["healthy", "like new", "like new"]
    assert len(fork_servers_of(home)) == 2
    await former.stop(old_node.node_id, grace_s=TIMEOUT_S)
    assert await anext(exits) == old_node.node_id
    await until(lambda: old_server not in processes_of(home), what="the end of the former one")
    for status in await latter.list():
        await latter.remove(status.node_id)
    await former.close()
    await latter.close()


async def test_code_that_cannot_be_imported_is_an_error(home: Path, code: Path) -> None:
    """A runtime whose nodes' code cannot be imported cannot be opened; the message says why."""
    (code / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(RuntimeUnavailable, match="No module named 'nothing_of_this_name'"):
        await ProcessRuntime(home, "ours", entry="broken:run", path=[code]).open()


async def test_code_that_starts_threads_is_an_error(home: Path, code: Path) -> None:
    """Code that starts threads when it is imported cannot be forked safely, and is refused."""
    (code / "busy.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "def run(env, sock): return 0\n"
    )
    with pytest.raises(RuntimeUnavailable, match="started 1 threads"):
        await ProcessRuntime(home, "ours", entry="busy:run", path=[code]).open()


# Strangers.


def connected(home: Path) -> socket.socket:
    """Connect to the fork server as anybody of this user could, and read its greeting."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT_S)
    here = Path.cwd()
    os.chdir(home / "forkserver")
    try:
        client.connect("socket")
    finally:
        os.chdir(here)
    with client.makefile() as lines:
        assert "hello" in json.loads(lines.readline())
    return client


RECORD = {"deployment": "", "role": "", "spec_hash": "", "created_at_s": 0, "request": ""}
MALFORMED = [
    b"{",
    b"[1]",
    b"\xff\xfe",
    b"[" * 100_000,
    b"1" * 10_000,
    json.dumps({"op": "dance"}).encode(),
    json.dumps({"op": "start"}).encode(),
    json.dumps({"op": "start", "id": "one", "record": {}, "env": {}}).encode(),
    json.dumps({"op": "start", "id": 1, "record": {}, "env": {}}).encode(),
    json.dumps({"op": "start", "id": 1, "record": {**RECORD, "node_id": "../x"}, "env": {}}).encode(),
    json.dumps({"op": "start", "id": 1, "record": {**RECORD, "node_id": 1}, "env": {}}).encode(),
    json.dumps({"op": "start", "id": 1, "record": {**RECORD, "node_id": "x", "role": 1}, "env": {}}).encode(),
    json.dumps({"op": "start", "id": 1, "record": {**RECORD, "node_id": "x"}, "env": {"A": 1}}).encode(),
]


@pytest.mark.parametrize("message", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_message_ends_only_its_sender(home: Path, runtime: ProcessRuntime, message: bytes) -> None:
    """Who sends what is no message is told so and disconnected; the fork server serves everybody else."""
    server = server_of(home)
    with connected(home) as client, client.makefile() as lines:
        client.sendall(message + b"\n")
        assert "error" in json.loads(lines.readline())
        assert lines.readline() == ""
    await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    assert server_of(home) == server


async def test_an_endless_line_is_cut_off(home: Path, runtime: ProcessRuntime) -> None:
    """Who sends a line without end is disconnected."""
    with connected(home) as client, contextlib.suppress(ConnectionError):
        for _ in range(8):
            client.sendall(b" " * 1024 * 1024)
        pytest.fail("nobody minded")
    await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)


async def test_a_client_that_dies_leaves_no_node(home: Path, runtime: ProcessRuntime) -> None:
    """A node that was asked for by a client that is gone before it is born does not begin."""
    order = {"op": "start", "id": 1, "record": {**RECORD, "node_id": new_node_id()}, "env": {}}
    server = server_of(home)
    with suspended(server), connected_before(server, home) as client:
        client.sendall(json.dumps(order).encode() + b"\n")
    await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
    await until(lambda: len(processes_of(home)) == 2, what="one fork server and one node")
    assert len(list((home / "run").iterdir())) == 1
    await until(lambda: not zombies_of(server))


@contextlib.contextmanager
def connected_before(server: int, home: Path) -> Iterator[socket.socket]:
    """Connect while the fork server runs, use the connection while it does not."""
    os.kill(server, signal.SIGCONT)
    with connected(home) as client:
        os.kill(server, signal.SIGSTOP)
        yield client


async def test_orders_that_are_not_read_do_not_block(home: Path, runtime: ProcessRuntime) -> None:
    """A client that never reads its answers does not keep the fork server from serving others."""
    with connected(home) as client:
        client.setblocking(False)
        order = {"op": "start", "id": 1, "record": {**RECORD, "node_id": "taken"}, "env": {}}
        (home / "run" / "taken.json").write_text("{}")
        with contextlib.suppress(BlockingIOError):
            for _ in range(20):
                client.send(json.dumps(order).encode() + b"\n")
        status = await runtime.start(tiny_spec(), timeout_s=TIMEOUT_S)
        assert status.liveness is Liveness.ALIVE
    (home / "run" / "taken.json").unlink()


async def test_errors_have_the_codes_of_the_protocol(runtime: ProcessRuntime) -> None:
    """What the fork server refuses is one of the runtime's errors."""
    spec = tiny_spec()
    await runtime.start(spec, timeout_s=TIMEOUT_S)
    with pytest.raises(ContainerError) as refused:
        await runtime.start(spec, timeout_s=TIMEOUT_S)
    assert refused.value.code == "NODE_NAME_TAKEN"

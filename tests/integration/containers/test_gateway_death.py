"""What is left when the process that holds the runtime is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from container_manager.runtimes.process import ProcessRuntime
from container_manager.spec import Liveness
from tests.processes import ask, fork_servers_of, process_runtime, processes_of, until, zombies_of

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 20.0
GATEWAY = """
import asyncio, sys
from pathlib import Path
from tests.processes import process_runtime, tiny_spec

async def main():
    runtime = process_runtime(Path(sys.argv[1]))
    await runtime.open()
    print("opened", flush=True)
    if sys.argv[2] != "idle":
        await runtime.start(tiny_spec(sys.argv[2]), timeout_s=60.0)
        print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def gateway(home: Path, behaviour: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that starts a node and waits; it is killed at the end."""
    arguments = [sys.executable, "-c", GATEWAY, str(home), behaviour]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """Wait for the process to say something."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def reopened(home: Path) -> ProcessRuntime:
    """Return a runtime as the next start of the gateway would have."""
    runtime = process_runtime(home)
    await runtime.open()
    return runtime


async def test_nodes_survive_a_killed_gateway(home: Path) -> None:
    """A killed gateway's node answers, and the next gateway finds it, hears of its end, and leaves no zombie."""
    with gateway(home) as process:
        assert [await asyncio.to_thread(line_of, process) for _ in range(2)] == ["opened", "started"]
        (server,) = fork_servers_of(home)
    runtime = await reopened(home)
    assert fork_servers_of(home) == {server}
    (status,) = await runtime.list()
    assert status.liveness is Liveness.ALIVE
    assert (await ask(status))["status"] == "healthy"
    exits = runtime.exits()
    await runtime.remove(status.node_id)
    assert await anext(exits) == status.node_id
    await until(lambda: not zombies_of(server))
    await runtime.close()


async def test_a_gateway_killed_during_a_start_leaves_a_trace(home: Path) -> None:
    """A node whose start was cut off by the gateway's death is listed, so that it can be removed."""
    with gateway(home, "silent") as process:
        assert await asyncio.to_thread(line_of, process) == "opened"
        await until(lambda: list((home / "run").glob("*.json")), what="the node's lock file")
    runtime = await reopened(home)
    (status,) = await runtime.list()
    await runtime.remove(status.node_id)
    await runtime.close()


async def test_nothing_of_an_idle_gateway_is_left(home: Path) -> None:
    """A killed gateway without nodes leaves a fork server that ends by itself."""
    with gateway(home, "idle") as process:
        assert await asyncio.to_thread(line_of, process) == "opened"
        assert processes_of(home)
    await until(lambda: not processes_of(home), what="the end of the fork server")


async def test_terminal_signals_reach_neither_nodes_nor_the_fork_server(home: Path) -> None:
    """Ctrl-C and a hang-up reach every process of the gateway's terminal, and none of the runtime's."""
    with gateway(home) as process:
        assert [await asyncio.to_thread(line_of, process) for _ in range(2)] == ["opened", "started"]
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.killpg(process.pid, number)
        await until(lambda: process.poll() is not None, what="the gateway's end")
    runtime = await reopened(home)
    (status,) = await runtime.list()
    assert (await ask(status))["status"] == "healthy"
    await runtime.remove(status.node_id)
    await runtime.close()

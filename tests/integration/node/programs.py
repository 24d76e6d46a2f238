"""Nodes as programs, each with a processor's file to itself or, for a while, shared with its successor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.processes import stat_of, until

PROGRAM = (sys.executable, "-m", "kato_node")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A node that runs."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    port: int

    async def stopped(self) -> None:
        """Stop it (SIGSTOP), and wait until it stands."""
        self.process.send_signal(signal.SIGSTOP)
        await until(lambda: is_stopped(self.process.pid), what="the stop")

    async def ended(self) -> int:
        """Wait for its end; return the exit status."""
        await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


def is_stopped(pid: int) -> bool:
    """Whether every thread of the process has stopped."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return all((stat_of(int(task.name)) or ["?"])[0] == "T" for task in tasks)


@asynccontextmanager
async def running(home: Path, *, program: Sequence[str] = PROGRAM, **settings: str) -> AsyncIterator[Program]:
    """Run a static node of the processor `p`; at the end it is killed, should it still run."""
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    environment = {"PROCESSOR_ID": "p", "PORT": "0", "KATO_HOME": str(home), **settings}
    process = await asyncio.create_subprocess_exec(
        *program, env=inherited | environment, stderr=asyncio.subprocess.PIPE, limit=2**20
    )
    try:
        assert process.stderr is not None
        started = json.loads(await process.stderr.readline())
        assert started["event"] == "node_started", started
        address = f"http://{started['host']}:{started['port']}"
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            yield Program(process=process, http=client, port=started["port"])
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def observe(client: httpx.AsyncClient, *names: str) -> None:
    """Observe the names, one event each."""
    for name in names:
        (await client.post("/observe", json={"strings": [name]})).raise_for_status()


async def stm(client: httpx.AsyncClient) -> list[list[str]]:
    """Return the STM of the session `default`."""
    events: list[list[str]] = (await client.get("/stm")).raise_for_status().json()["stm"]
    return events

"""A home with a gateway that is started again whenever it dies, and what runs there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

import kato_node
from container_manager.runtimes import lockfiles
from tests.chaos.real.storage import Storage
from tests.engine import docker

ROOT = Path(kato_node.__file__).parents[1]
PATIENCE_S = 60.0
POOL = 2
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A node that lives: its process on this host, and the port at which this host reaches it."""

    pid: int
    port: int


class Home:
    """One gateway after the other, and their nodes.

    Attributes:
        storage: what they store in.
        url: of the gateway, the same for all of them.
        log: what they and their nodes have said.
    """

    def __init__(self, path: Path, storage: Storage, settings: Mapping[str, str]) -> None:
        self.path = path
        self.storage = storage
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = path.parent / f"{path.name}.log"
        self._settings = {**storage.settings, **settings}
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def gateway(self) -> psutil.Process | None:
        """The gateway's process, if it lives."""
        process = self._process
        return psutil.Process(process.pid) if process is not None and process.returncode is None else None

    @property
    def in_containers(self) -> bool:
        """Whether its nodes are containers."""
        return self._settings.get("RUNTIME") == "docker"

    async def nodes(self) -> dict[str, Running]:
        """Return the nodes that live, by id."""
        if self.in_containers:
            return await asyncio.to_thread(self._containers)
        traces = lockfiles.look_at_all(lockfiles.run_dir(self.path))
        records = [trace.record for trace in traces if trace.life == "alive" and trace.record is not None]
        return {record.node_id: Running(pid=record.pid, port=record.port) for record in records}

    def _containers(self) -> dict[str, Running]:
        """Ask the engine, dead containers included: they have no pid."""
        try:
            ids = self._labelled()
            found = json.loads(docker("inspect", *ids)) if ids else []
        except RuntimeError:  # one of them went meanwhile
            return self._containers()
        nodes = {}
        for container in found:
            ports = (container["NetworkSettings"]["Ports"] or {}).get("8000/tcp") or [{"HostPort": "0"}]
            running = Running(pid=container["State"]["Pid"], port=int(ports[0]["HostPort"]))
            nodes[container["Config"]["Labels"]["kato.node"]] = running
        return nodes

    async def pid_of(self, http: aiohttp.ClientSession, processor_id: str) -> int | None:
        """Return the pid of the node that serves the processor, None if there is none, or nobody can tell."""
        try:
            timeout = aiohttp.ClientTimeout(total=0.5)
            async with http.get(f"{self.url}/nodes/{processor_id}", timeout=timeout) as reply:
                known = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
            return None
        node = (await self.nodes()).get(str(known.get("node_id", "")))
        return (node.pid or None) if node is not None else None

    def processes(self) -> list[psutil.Process]:
        """Return every process of this home."""
        return [process for process in psutil.process_iter() if _belongs(process, str(self.path))]

    async def start(self) -> None:
        """Start a gateway, and keep one running from now on."""
        self._keeper = asyncio.create_task(self._keep())
        await eventually(self._serves, "a gateway that serves")

    async def stop(self) -> int:
        """Stop the gateway as Ctrl-C does; return its exit status."""
        process = self._process
        assert process is not None
        assert self._keeper is not None
        self._keeper.cancel()
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE_S):
            return await process.wait()

    async def abandon(self) -> None:
        """Kill whatever is left."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self._process is not None:
            await self._process.wait()
        if self.in_containers:
            await asyncio.to_thread(self._remove_containers)

    def _remove_containers(self) -> None:
        ids = self._labelled()
        if ids:
            docker("rm", "--force", *ids)

    def _labelled(self) -> list[str]:
        label = f"label=kato.deployment={(self.path / 'deployment').read_text().strip()}"
        return docker("ps", "--all", "--quiet", "--filter", label).split()

    async def _keep(self) -> None:
        while True:
            with self.log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.chaos.real.gateway"),
                    env=self._environment(),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=log,
                    process_group=0,
                )
            await self._process.wait()

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        own = {
            "KATO_HOME": str(self.path),
            "GATEWAY_PORT": str(self._port),
            "WARM_POOL_SIZE": str(POOL),
            "RUNTIME": "process",
            "LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),
        }
        return {**inherited, **own, **self._settings}

    async def _serves(self) -> bool:
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.url}/health") as reply:
                return reply.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def serving(path: Path, storage: Storage, **settings: str) -> AsyncIterator[Home]:
    """Serve in a home; afterwards the caller sees to what is left, and what is left then is killed."""
    home = Home(path, storage, settings)
    try:
        await home.start()
        yield home
    finally:
        await home.abandon()
        if kept := os.environ.get("CHAOS_LOGS"):
            shutil.copy(home.log, Path(kept) / f"{path.parent.name}.log")
        shutil.rmtree(path, ignore_errors=True)


async def eventually(condition: Callable[[], object], what: str, *, within_s: float = PATIENCE_S) -> None:
    """Wait until the condition holds, which may be a coroutine's. Raises: AssertionError."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                held = condition()
                if asyncio.iscoroutine(held):
                    held = await held
                if held:
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


def _belongs(process: psutil.Process, home: str) -> bool:
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return home in process.cmdline() or process.environ().get("KATO_HOME") == home
    except psutil.Error:
        return False


def identity(body: bytes) -> str | None:
    """Return the processor that a node says it serves, in its reply to /health."""
    try:
        found = json.loads(body)["processor_id"]
    except (ValueError, KeyError):
        return None
    return None if found is None else str(found)

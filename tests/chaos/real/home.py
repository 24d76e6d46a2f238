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
from pathlib import Path

import aiohttp
import psutil

import kato_node
from container_manager.runtimes import lockfiles

ROOT = Path(kato_node.__file__).parents[1]
PATIENCE_S = 60.0
POOL = 2
_POLL_S = 0.02


class Home:
    """One gateway after the other, and their nodes.

    Attributes:
        url: of the gateway, the same for all of them.
        log: what they and their nodes have said.
    """

    def __init__(self, path: Path, settings: Mapping[str, str]) -> None:
        self.path = path
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = path.parent / f"{path.name}.log"
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def gateway(self) -> psutil.Process | None:
        """The gateway's process, if it lives."""
        process = self._process
        return psutil.Process(process.pid) if process is not None and process.returncode is None else None

    def nodes(self) -> dict[str, lockfiles.LockRecord]:
        """Return what the lock files say of the nodes that live, by id."""
        traces = lockfiles.look_at_all(lockfiles.run_dir(self.path))
        return {trace.node_id: trace.record for trace in traces if trace.life == "alive" and trace.record is not None}

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

    def abandon(self) -> None:
        """Kill whatever is left."""
        if self._keeper is not None:
            self._keeper.cancel()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

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
async def serving(path: Path, **settings: str) -> AsyncIterator[Home]:
    """Serve in a home; afterwards the caller sees to what is left, and what is left then is killed."""
    home = Home(path, settings)
    try:
        await home.start()
        yield home
    finally:
        home.abandon()
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

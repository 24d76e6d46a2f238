"""A gateway as its users have it: a process of its own, with real nodes, in a home of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from websockets.sync.client import ClientConnection, connect

Json = dict[str, Any]
PATIENCE_S = 60.0
PROGRAM = ("-m", "kato_gateway")


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"never: {what}"
        time.sleep(0.02)


def start(home: Path, *arguments: str, program: Sequence[str] = PROGRAM, **settings: str) -> subprocess.Popen[str]:
    """Start `python -m kato_gateway` with these settings and no others; its log stands beside its home."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with (home.parent / f"{home.name}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            env={**inherited, "KATO_HOME": str(home), "GATEWAY_PORT": "0", "WARM_POOL_SIZE": "1", **settings},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            process_group=0,
        )


class Gateway:
    """One gateway after the other on one home."""

    def __init__(self, home: Path, *, program: Sequence[str] = PROGRAM, **settings: str) -> None:
        self.home = home
        self.program = program
        self.settings = settings
        self.client = httpx.Client(timeout=PATIENCE_S)
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def log_path(self) -> Path:
        """Where the gateways on this home log."""
        return self.home.parent / f"{self.home.name}.log"

    @property
    def log(self) -> str:
        """What the gateways on this home have logged so far."""
        return self.log_path.read_text()

    @property
    def process(self) -> subprocess.Popen[str]:
        """The gateway that runs."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start a gateway and wait until it says where it serves."""
        self._process = start(self.home, program=self.program, **self.settings)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"http://\S+:\d+", line):
                self.url = found[0]
                return
        raise AssertionError(f"the gateway ended with {self._process.wait()}: {self.log}")

    def kill(self) -> None:
        """Kill the gateway, and nothing else, without warning."""
        self.process.kill()
        self._ended()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stop the gateway as Ctrl-C does, the whole foreground group; return its exit status."""
        os.killpg(self.process.pid, number)
        return self._ended()

    def _ended(self) -> int:
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def call(self, method: str, path: str, body: Json | None = None, **headers: str) -> httpx.Response:
        """Send one request; `x_session_id` stands for X-Session-ID."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.request(method, self.url + path, json=body, headers=named)

    def ask(self, method: str, path: str, body: Json | None = None, **headers: str) -> Json:
        """Send one request that must succeed; return the reply's body."""
        reply = self.call(method, path, body, **headers)
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text}"
        answer: Json = reply.json()
        return answer

    def socket(self, path: str, **headers: str) -> ClientConnection:
        """Open a WebSocket."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return connect(self.url.replace("http", "ws", 1) + path, additional_headers=named, max_size=None)

    def nodes(self) -> Mapping[str, int]:
        """Return the pid of each node that is alive, by its own id."""
        pids = {}
        for path in (self.home / "run").glob("*.json"):
            try:
                pid = json.loads(path.read_text())["pid"]
                running = psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
                continue
            if running:
                pids[path.stem] = int(pid)
        return pids

    def pid_of(self, session_id: str) -> int:
        """Return the pid of the session's node."""
        name = self.ask("GET", f"/sessions/{session_id}")["container_name"]
        return self.nodes()[name.removeprefix("kato-")]

    def processes(self) -> list[psutil.Process]:
        """Return every process that belongs to this home."""
        return [process for process in psutil.process_iter() if _belongs(process, str(self.home))]


def _belongs(process: psutil.Process, home: str) -> bool:
    try:
        return process.pid != os.getpid() and (home in process.cmdline() or process.environ().get("KATO_HOME") == home)
    except psutil.Error:
        return False


@contextmanager
def gateway(home: Path, *, program: Sequence[str] = PROGRAM, **settings: str) -> Iterator[Gateway]:
    """Run a gateway; afterwards it is stopped, and no process of its home may be left."""
    running = Gateway(home, program=program, **settings)
    try:
        with running.client:
            running.start()
            yield running
            if running.process.poll() is None:
                assert running.stop() == 0
        eventually(lambda: not running.processes(), "the end of every process of the home")
    finally:
        for process in running.processes():
            process.kill()

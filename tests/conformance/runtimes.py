"""The grounds that runtimes stand on: what a test needs to do to nodes behind a runtime's back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from container_manager.errors import StartFailed
from container_manager.runtime import Runtime
from container_manager.runtimes.memory import MemoryEngine, MemoryRuntime
from container_manager.spec import NodeSpec
from tests.dockers import NOTHING, clean_up, detour, docker_runtime, left_by, new_deployment, tiny_container
from tests.engine import docker
from tests.processes import assert_nothing_runs, process_runtime, tiny_spec


class Ground(Protocol):
    """An engine, or a host: several runtimes can stand on it, of one deployment or of several.

    Attributes:
        stride: by what factor each start of a row goes further before it is cancelled; 1.0 is everywhere, and slow.
        short_s: time enough for a node to run there, and soon over.
    """

    stride: float
    short_s: float

    def runtime(self, deployment: str = "ours") -> Runtime:
        """Return a new runtime, as another start of the gateway would have."""

    def spec(self, deployment: str = "ours", *, role: str = "node") -> NodeSpec:
        """Return the spec of a good node."""

    def ending(self) -> AbstractContextManager[NodeSpec]:
        """Provide the spec of a node that ends before it is healthy."""

    def silent(self) -> AbstractContextManager[NodeSpec]:
        """Provide the spec of a node that never answers."""

    async def kill(self, runtime: Runtime, node_id: str) -> None:
        """Have the node end without the runtime's doing."""

    def doubt(self, node_id: str) -> AbstractContextManager[None]:
        """Have the runtime unable to tell about this node."""

    def blindness(self) -> AbstractContextManager[None]:
        """Have the runtime unable to tell what there is at all."""

    async def assert_clean(self) -> None:
        """Fail if anything is left."""


class MemoryGround:
    """An engine in memory."""

    stride = 1.25
    short_s = 0.3

    def __init__(self) -> None:
        self.engine = MemoryEngine()

    def runtime(self, deployment: str = "ours") -> Runtime:
        return MemoryRuntime(self.engine, deployment)

    def spec(self, deployment: str = "ours", *, role: str = "node") -> NodeSpec:
        return tiny_spec(deployment=deployment, role=role)

    @contextlib.contextmanager
    def ending(self) -> Iterator[NodeSpec]:
        self.engine.knobs.start_error = StartFailed("it ended")
        yield self.spec()
        self.engine.knobs.start_error = None

    @contextlib.contextmanager
    def silent(self) -> Iterator[NodeSpec]:
        self.engine.knobs.start_gate = asyncio.Event()
        yield self.spec()
        self.engine.knobs.start_gate = None

    async def kill(self, runtime: Runtime, node_id: str) -> None:
        self.engine.kill(node_id)

    @contextlib.contextmanager
    def doubt(self, node_id: str) -> Iterator[None]:
        self.engine.knobs.is_out_of_reach = True
        yield
        self.engine.knobs.is_out_of_reach = False

    @contextlib.contextmanager
    def blindness(self) -> Iterator[None]:
        with self.doubt(""):
            yield

    async def assert_clean(self) -> None:
        assert self.engine.nodes == {}


class ProcessGround:
    """This host, in a home of its own."""

    stride = 1.25
    short_s = 0.3

    def __init__(self, home: Path) -> None:
        self.home = home

    def runtime(self, deployment: str = "ours") -> Runtime:
        return process_runtime(self.home, deployment)

    def spec(self, deployment: str = "ours", *, role: str = "node") -> NodeSpec:
        return tiny_spec(deployment=deployment, role=role)

    @contextlib.contextmanager
    def ending(self) -> Iterator[NodeSpec]:
        yield tiny_spec("exit")

    @contextlib.contextmanager
    def silent(self) -> Iterator[NodeSpec]:
        yield tiny_spec("silent")

    async def kill(self, runtime: Runtime, node_id: str) -> None:
        pid = (await runtime.status(node_id)).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def doubt(self, node_id: str) -> Iterator[None]:
        path = self.home / "run" / f"{node_id}.json"
        content = path.read_bytes()
        path.write_bytes(b"{")
        yield
        path.write_bytes(content)

    @contextlib.contextmanager
    def blindness(self) -> Iterator[None]:
        run = self.home / "run"
        run.rename(self.home / "elsewhere")
        yield
        (self.home / "elsewhere").rename(run)

    async def assert_clean(self) -> None:
        assert list((self.home / "run").iterdir()) == []
        await assert_nothing_runs(self.home)


class DockerGround:
    """The Docker engine, over a detour; deployments have names there that nobody else has."""

    stride = 1.5
    short_s = 3.0

    def __init__(self, directory: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._detour = self._stack.enter_context(detour(directory))
        self._deployments = {"ours": new_deployment(), "theirs": new_deployment()}

    def runtime(self, deployment: str = "ours") -> Runtime:
        return docker_runtime(self._deployments[deployment], self._detour)

    def spec(self, deployment: str = "ours", *, role: str = "node") -> NodeSpec:
        return tiny_container(deployment=self._deployments[deployment], role=role)

    @contextlib.contextmanager
    def ending(self) -> Iterator[NodeSpec]:
        yield tiny_container("exit", self._deployments["ours"])

    @contextlib.contextmanager
    def silent(self) -> Iterator[NodeSpec]:
        yield tiny_container("silent", self._deployments["ours"])

    async def kill(self, runtime: Runtime, node_id: str) -> None:
        docker("kill", f"kato-{node_id}")

    def doubt(self, node_id: str) -> AbstractContextManager[None]:
        return self._detour.cut()

    def blindness(self) -> AbstractContextManager[None]:
        return self._detour.cut()

    async def assert_clean(self) -> None:
        self._stack.close()
        left = {name: left_by(name) for name in self._deployments.values()}
        for name in left:
            clean_up(name)
        assert set(left.values()) == {NOTHING}

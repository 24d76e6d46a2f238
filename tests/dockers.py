"""Tiny nodes on a real Docker engine, and a detour to it on which calls get lost, held up, or refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from uuid import uuid4

import kato_node
from container_manager.runtimes.docker import DockerRuntime
from container_manager.spec import NodeSpec, new_node_id
from tests.engine import IMAGE, LABEL, docker
from tests.processes import NODES

SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
_TINY_IMAGE = f"kato-test-tiny:{kato_node.__version__}"
_POLL_S = 0.01
_DOCKERFILE = f"""FROM {IMAGE}
COPY tiny_node.py /tiny_node.py
CMD ["python", "/tiny_node.py"]
"""


@cache
def tiny_image() -> str:
    """Return the image of tiny nodes (tests/nodes/tiny_node.py): the platform's, with another program. Made once."""
    command = ["docker", "build", "--quiet", "--label", LABEL, "--tag", _TINY_IMAGE, "--file", "-", str(NODES)]
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    subprocess.run(command, input=_DOCKERFILE, text=True, check=True, capture_output=True, env=environment)
    return _TINY_IMAGE


def tiny_container(behaviour: str = "", deployment: str = "ours", *, role: str = "node", **env: str) -> NodeSpec:
    """Return the spec of a tiny node of this behaviour, to run in a container."""
    return NodeSpec(
        node_id=new_node_id(),
        deployment=deployment,
        role=role,
        image=tiny_image(),
        env={"TINY": behaviour, **env},
        created_at_s=time.time(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is on the engine: ids of containers and networks, names of volumes."""

    containers: frozenset[str]
    networks: frozenset[str]
    volumes: frozenset[str]


def left_by(deployment: str) -> Left:
    """Return what is on the engine of a deployment."""
    label = f"label=kato.deployment={deployment}"
    return Left(
        containers=frozenset(docker("ps", "--all", "--quiet", "--filter", label).split()),
        networks=frozenset(docker("network", "ls", "--quiet", "--filter", label).split()),
        volumes=frozenset(docker("volume", "ls", "--quiet", "--filter", label).split()),
    )


def has_made_containers(deployment: str) -> bool:
    """Return whether the engine has lately created a container of a deployment, also if it is gone already."""
    now_s = time.time()
    window = ("--since", f"{now_s - 120:.3f}", "--until", f"{now_s:.3f}")
    label = f"label=kato.deployment={deployment}"
    return bool(docker("events", *window, "--filter", "event=create", "--filter", label))


NOTHING = Left(containers=frozenset(), networks=frozenset(), volumes=frozenset())


def clean_up(deployment: str, *, networks: bool = True) -> None:
    """Remove whatever a failed test has left of a deployment."""
    left = left_by(deployment)
    if left.containers:
        docker("rm", "--force", "--volumes", *left.containers)
    if left.networks and networks:
        docker("network", "rm", *left.networks)


def new_deployment() -> str:
    """Return the name of a deployment that nobody else has: the engine is everybody's."""
    return f"test-{uuid4().hex[:8]}"


@dataclass(slots=True, kw_only=True)
class Detour:
    """A socket in front of the engine's. What it does holds for the calls that begin while it is set.

    Attributes:
        is_cut: nobody gets through, and those who were are thrown out.
        loses: the engine does a call whose head has this in it, and the caller's line breaks before the answer.
        holds: a call whose head has this in it does not reach the engine until `release`.
        refuses: a call whose head has the first in it is answered with status 500 and the second as its message.
    """

    path: Path
    is_cut: bool = False
    loses: str | None = None
    holds: str | None = None
    refuses: tuple[str, str] | None = None
    held: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)
    _lines: set[asyncio.Task[None]] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """Return what a client connects to."""
        return f"unix://{self.path}"

    def release(self) -> None:
        """Let the calls that are held go on to the engine."""
        self.holds = None
        self._released.set()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Have the engine out of reach."""
        self.is_cut = True
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._throw_out(), self._loop).result()
        yield
        self.is_cut = False

    async def serve(self, up: threading.Event, down: asyncio.Event) -> None:
        """Serve until `down`."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_unix_server(self._begin, self.path)
        up.set()
        await down.wait()
        server.close()
        await self._throw_out()
        for _ in range(3):  # an aborted transport closes in a later turn of the loop
            await asyncio.sleep(0)

    async def _throw_out(self) -> None:
        while self._lines:
            for line in self._lines:
                line.cancel()
            await asyncio.wait(self._lines)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.create_task(self._line(reader, writer))
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)
        line.add_done_callback(lambda _: writer.transport.abort())

    async def _line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            if not self.is_cut:
                await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(SOCKET)
        back = asyncio.create_task(_pump(engine_reader, writer))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_length(head))
                line = head.decode().partition("\r\n")[0]
                if self.refuses is not None and self.refuses[0] in line:
                    writer.write(_refusal(self.refuses[1]))
                    continue
                if self.holds is not None and self.holds in line:
                    self.held.set()
                    while not self._released.is_set():  # noqa: ASYNC110 - set by another thread
                        await asyncio.sleep(_POLL_S)
                if self.loses is not None and self.loses in line:
                    back.cancel()
                    await asyncio.wait({back})
                    engine_writer.write(head + body)
                    await engine_reader.read(1)
                    return
                engine_writer.write(head + body)
        finally:
            engine_writer.transport.abort()
            back.cancel()
            await asyncio.wait({back})


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
    writer.transport.abort()


def _length(head: bytes) -> int:
    for line in head.decode().lower().split("\r\n"):
        if line.startswith("content-length:"):
            return int(line.partition(":")[2])
    return 0


def _refusal(message: str) -> bytes:
    body = f'{{"message": "{message}"}}'.encode()
    head = f"HTTP/1.1 500 Error\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextmanager
def detour(directory: Path) -> Iterator[Detour]:
    """Provide a detour to the engine, served by a thread: tests may block their own."""
    detour = Detour(path=directory / "engine.sock")
    up = threading.Event()
    downs: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        down = asyncio.Event()
        downs.append((asyncio.get_running_loop(), down))
        await detour.serve(up, down)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="detour")
    thread.start()
    assert up.wait(20)
    try:
        yield detour
    finally:
        detour.release()
        for loop, down in downs:
            loop.call_soon_threadsafe(down.set)
        thread.join()


@contextmanager
def own_network() -> Iterator[str]:
    """A network for one run; whatever is left on it fails the run."""
    name = f"kato-test-{uuid4().hex[:12]}"
    no_way_out = "com.docker.network.bridge.enable_ip_masquerade=false"
    docker("network", "create", "--label", LABEL, "--opt", no_way_out, name)
    try:
        yield name
    finally:
        docker("network", "rm", name)


def docker_runtime(deployment: str, detour: Detour | None = None, *, network: str | None = None) -> DockerRuntime:
    """Return a runtime of a deployment, over the detour if there is one."""
    return DockerRuntime(deployment, network=network, engine_url=None if detour is None else detour.url)

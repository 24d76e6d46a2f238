"""A deployment of one's own on the real engine, and runtimes of it; whatever is left of them fails the test."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from container_manager.runtimes.docker import DockerRuntime
from tests.dockers import NOTHING, Detour, clean_up, detour, docker_runtime, left_by, new_deployment
from tests.processes import descriptors


@pytest.fixture
def deployment() -> Iterator[str]:
    """A deployment's name; fails if a container, a network, a volume, a thread or a descriptor of ours is left."""
    threads, open_before = set(threading.enumerate()), descriptors()
    deployment = new_deployment()
    yield deployment
    left = left_by(deployment)
    clean_up(deployment)
    assert left == NOTHING
    others = {thread.name for thread in set(threading.enumerate()) - threads}
    assert {name for name in others if not name.startswith("asyncio_")} == set()
    assert descriptors() == open_before


@pytest.fixture
async def runtime(deployment: str) -> AsyncIterator[DockerRuntime]:
    """An open runtime; its nodes are removed at the end."""
    runtime = docker_runtime(deployment)
    await runtime.open()
    yield runtime
    for status in await runtime.list():
        await runtime.remove(status.node_id)
    await runtime.close()


@pytest.fixture
def engine(deployment: str, tmp_path: Path) -> Iterator[Detour]:
    """A detour to the engine, with failures on request."""
    with detour(tmp_path) as way:
        yield way


@pytest.fixture
async def detoured(deployment: str, engine: Detour) -> AsyncIterator[DockerRuntime]:
    """An open runtime that reaches the engine over the detour."""
    runtime = docker_runtime(deployment, engine)
    await runtime.open()
    yield runtime
    for status in await runtime.list():
        await runtime.remove(status.node_id)
    await runtime.close()

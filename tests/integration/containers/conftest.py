"""A home for real processes, and a runtime on it; leaks fail the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from container_manager.runtimes.process import ProcessRuntime
from tests.processes import assert_nothing_runs, descriptors, process_runtime


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Path]:
    """A KATO_HOME; fails if one of its processes, or a descriptor of ours, is left."""
    before = descriptors()
    home = tmp_path / "home"
    yield home
    await assert_nothing_runs(home)
    assert descriptors() - before == set()


@pytest.fixture
async def runtime(home: Path) -> AsyncIterator[ProcessRuntime]:
    """An open runtime of tiny nodes; its nodes are removed at the end."""
    runtime = process_runtime(home)
    await runtime.open()
    yield runtime
    for status in await runtime.list():
        await runtime.remove(status.node_id)
    await runtime.close()

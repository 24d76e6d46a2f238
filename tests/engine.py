"""A Docker engine for the tests marked `docker`, and KATO's image on it.

Where there is no engine, or the image is not built, they are skipped; with KATO_TEST_DOCKER=required they fail, and so
does every other skip among them. KATO_TEST_IMAGE names another image to try.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest

import kato_node

ROOT = Path(__file__).resolve().parents[1]
IMAGE = os.environ.get("KATO_TEST_IMAGE") or f"kato-platform:{kato_node.__version__}"
PATIENCE_S = 60.0
LABEL = "kato.test"  # on everything that the tests make on an engine

_REQUIRED = os.environ.get("KATO_TEST_DOCKER") == "required"
_ANSWER_MAX_S = 120.0
_REGISTRY_MAX_S = 10.0
_POLL_S = 0.05
T = TypeVar("T")


def docker(*arguments: str) -> str:
    """Return what `docker …` prints. Raises: RuntimeError, with its words."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def engine() -> None:
    """Skip the test, or fail it where an engine is required, unless there is an engine with the image."""
    reason = _missing()
    if reason is not None:
        (pytest.fail if _REQUIRED else pytest.skip)(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Ask for the engine before each test that is marked `docker`."""
    if item.get_closest_marker("docker") is not None:
        engine()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test marked `docker` that is skipped for whatever reason where an engine is required."""
    report = yield
    if _REQUIRED and report.skipped and item.get_closest_marker("docker") is not None:
        report.outcome = "failed"
        report.longrepr = f"skipped, although KATO_TEST_DOCKER=required: {report.longrepr}"
    return report


@cache
def _missing() -> str | None:
    """Return what is missing, None if nothing is; asked once in a run."""
    if shutil.which("docker") is None:
        return "needs docker"
    if not _succeeds("docker", "version"):
        return "no Docker engine answers"
    return None if _succeeds("docker", "image", "inspect", IMAGE) else f"there is no image {IMAGE}: make image"


def _succeeds(*command: str, within_s: float = _ANSWER_MAX_S) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=within_s, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def eventually(ask: Callable[[], T], what: str) -> T:
    """Return the first answer that is true. Raises: AssertionError if there is none for a long time."""
    give_up_at_s = time.monotonic() + PATIENCE_S
    while not (answer := ask()):
        assert time.monotonic() < give_up_at_s, f"never: {what}"
        time.sleep(_POLL_S)
    return answer


class Container:
    """A container of a test."""

    def __init__(self, container_id: str) -> None:
        self.id = container_id

    def inspect(self) -> dict[str, Any]:
        """Return all that the engine knows of it."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.id))
        return found[0]

    @property
    def state(self) -> dict[str, Any]:
        """Return its state."""
        state: dict[str, Any] = self.inspect()["State"]
        return state

    @property
    def url(self) -> str:
        """Return where the host reaches its port 8000, which must be published."""
        return f"http://{docker('port', self.id, '8000')}"

    @property
    def log(self) -> str:
        """Return what it wrote, stdout and stderr."""
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def run(self, *command: str) -> str:
        """Run a command in it, and return what it prints. Raises: RuntimeError if it fails."""
        return docker("exec", self.id, *command)

    def exit_code(self) -> int:
        """Wait for its end."""
        return int(docker("wait", self.id))


@contextmanager
def container(*options: str, image: str = IMAGE, command: tuple[str, ...] = ()) -> Iterator[Container]:
    """Run a container with these options of `docker run`; it is removed in the end, with its anonymous volumes."""
    name = f"kato-test-{uuid4().hex[:12]}"
    try:
        docker("run", "--detach", "--name", name, "--label", LABEL, *options, image, *command)
        yield Container(name)
    finally:
        docker("rm", "--force", "--volumes", name)


def can_be_had(image: str) -> bool:
    """Say whether the engine has an image, or can pull it; told within seconds where its registry does not answer."""
    return _succeeds("docker", "image", "inspect", image) or (
        _succeeds("docker", "manifest", "inspect", image, within_s=_REGISTRY_MAX_S)
        and _succeeds("docker", "pull", "--quiet", image)
    )

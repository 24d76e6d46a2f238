"""The engine of CI: of a new machine (.ci/engine), and as tests insist on it. Stand-ins are on PATH."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import ROOT, eventually

PROGRAMS = {
    "dockerd": 'echo $$ > "$RUN/pid"; exec sleep 600',
    "docker": '[ "$1" = compose ] || [ -e "$RUN/pid" ]',
    "debootstrap": "true",
    "pidof": "false",
    "sudo": 'exec "$@"',
}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A machine without an engine that runs; in the end its engine is gone."""
    for name, script in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    yield {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RUN": str(tmp_path)}
    if (tmp_path / "pid").exists() and runs(tmp_path):
        os.kill(pid(tmp_path), signal.SIGKILL)


def pid(run: Path) -> int:
    """Return the engine's process id."""
    return int((run / "pid").read_text())


def runs(run: Path) -> bool:
    """Whether the engine is there."""
    try:
        os.kill(pid(run), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("check", ["true", "false"])
def test_the_engine_that_was_started_ends(environment: dict[str, str], tmp_path: Path, check: str) -> None:
    """Whether what comes after it succeeds or fails, the engine ends with the run that started it."""
    script = f"set -euo pipefail; source .ci/engine; trap stop_engine EXIT; make_sure_of_engine; {check}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "Starting dockerd" in done.stdout, done.stderr
    assert done.returncode == (0 if check == "true" else 1), done.stderr
    eventually(lambda: not runs(tmp_path), "an engine that ended")


def test_an_engine_that_runs_stays(environment: dict[str, str], tmp_path: Path) -> None:
    """An engine that answers already is left as it is."""
    (tmp_path / "pid").write_text(str(os.getpid()))
    script = "set -euo pipefail; source .ci/engine; trap stop_engine EXIT; make_sure_of_engine"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "Starting" not in done.stdout
    assert runs(tmp_path)
    (tmp_path / "pid").unlink()


SKIPPED = """
import pytest

@pytest.mark.docker
def test_that_is_skipped():
    pytest.skip("for whatever reason")

@pytest.mark.docker
@pytest.mark.skipif(True, reason="for whatever reason")
def test_that_is_not_begun():
    raise AssertionError
"""


@pytest.mark.parametrize(
    ("wanted", "docker", "counted"),
    [
        ("", "true", "2 skipped"),
        ("required", "true", "1 failed, 1 error"),
        ("", "false", "2 skipped"),
        ("required", "false", "2 errors"),
    ],
)
def test_where_an_engine_is_required_nothing_is_skipped(tmp_path: Path, wanted: str, docker: str, counted: str) -> None:
    """Of the tests marked `docker` none is skipped, for whatever reason, where KATO_TEST_DOCKER=required."""
    (tmp_path / "docker").write_text(f"#!/bin/sh\n{docker}\n")
    (tmp_path / "docker").chmod(0o755)
    names = "pytest_runtest_makereport, pytest_runtest_setup"
    (tmp_path / "conftest.py").write_text(f"from tests.engine import {names}\n__all__ = {names.split(', ')}\n")
    (tmp_path / "test_some.py").write_text(SKIPPED)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "KATO_TEST_DOCKER": wanted}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "-o",
        "markers=docker",
    ]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(tmp_path)], env=path, capture_output=True, text=True, check=False
    )
    assert counted in done.stdout, done.stdout

"""The engine of a new machine (.ci/engine): programs on PATH stand in for Docker's and for the system's."""

from __future__ import annotations

import os
import signal
import subprocess
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

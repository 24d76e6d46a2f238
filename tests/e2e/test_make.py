"""The Makefile's doors, as a user opens them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.e2e.gateway_process import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / ".venv" / ".dev").exists(), reason="run by hand, outside of `make test`")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The settings of a gateway on a free port with a home of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "KATO_HOME": str(tmp_path / "home"), "GATEWAY_PORT": "0"}


def test_up_serves_until_ctrl_c(environment: dict[str, str]) -> None:
    """`make up` says where it serves and how long it took; Ctrl-C in its terminal ends everything."""
    process = subprocess.Popen(
        ["make", "up"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    welcome = next(line for line in lines if "serves at" in line)
    found = re.search(r"(http://127\.0\.0\.1:\d+) .*, ready after [\d.]+ s", welcome)
    assert found, welcome
    assert httpx.get(f"{found[1]}/health").json()["status"] == "healthy"
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{found[1]}/health")


def test_the_demo_predicts_and_explains(environment: dict[str, str]) -> None:
    """The demo keeps two users apart, prints KATO beside its baselines, and explains one prediction."""
    python = ROOT / ".venv" / "bin" / "python"
    command = [str(python), "-m", "examples.demo", "--works", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "alice expects              [[['work']]]",
        "bob expects                []",
        "KATO   ",
        "learned in bwv",
    ):
        assert said in done.stdout


def test_make_lists_its_doors() -> None:
    """`make` alone lists what can be asked for."""
    listed = subprocess.run(
        [shutil.which("make") or "make"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for door in ("up", "test", "check", "demo", "bench"):
        assert f"make {door} " in listed

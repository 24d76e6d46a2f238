"""Requests made from the published documents, valid and not, find nothing in either service that they do not say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.contract.published.services import Service

HERE = Path(__file__).parent
RUN = "from schemathesis.cli import schemathesis; schemathesis()"
# Each operation is published at several places, at the gateway at four: so few cases for each are many for one.
CASES = {"node": "5", "gateway": "3"}


def test_schemathesis_finds_nothing(service: Service, tmp_path: Path) -> None:
    """Every check of schemathesis holds for every documented call: statuses, types, headers, schemas, methods."""
    run = subprocess.run(
        [
            *(sys.executable, "-c", RUN, "--config-file", str(HERE / "schemathesis.toml")),
            *("run", f"{service.url}/openapi.json", "--max-examples", CASES[service.name], "--no-shrink"),
            *("--generation-deterministic", "--phases", "examples,coverage,fuzzing"),
            *("--warnings", "off", "--continue-on-failure", "--no-color"),
        ],
        env={**os.environ, "PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"},
        cwd=tmp_path,  # where it leaves its notes
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr

"""A few runs of the harness with real processes, and the stream under kills, small."""

from __future__ import annotations

import pytest

from tests.chaos.real import ground, stream

FILES = range(3)
MONGO = range(50, 53)
CONTAINERS = (0, 1)
KILLS = 12


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seeds", [FILES, MONGO], ids=["files", "mongo"])
def test_nothing_is_lost_by_real_processes(seeds: range) -> None:
    """Drawn runs with real gateways, nodes, signals, and files or the MongoDB protocol, are clean."""
    found = [outcome for outcome in ground.run(seeds) if not outcome.is_clean]
    assert not found, "\n".join(map(str, found))


@pytest.mark.docker
@pytest.mark.timeout(600)
def test_nothing_is_lost_by_containers() -> None:
    """Drawn runs with nodes in containers are clean."""
    found = [outcome for outcome in ground.run_in_containers(CONTAINERS) if not outcome.is_clean]
    assert not found, "\n".join(map(str, found))


def test_a_stream_under_kills_equals_its_acknowledgements() -> None:
    """Nodes killed at any moment of an operation, some between commit and reply: STM, frequencies and answers agree."""
    outcome = stream.on_files(0, KILLS)
    assert outcome.is_clean, str(outcome)
    assert len(outcome.faults) == KILLS
    assert stream.AFTER_COMMIT in outcome.faults

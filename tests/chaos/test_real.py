"""A few runs of the harness with real processes, and the stream under kills, small."""

from __future__ import annotations

from tests.chaos.real import ground, stream

RUNS = 5
KILLS = 12


def test_nothing_is_lost_by_real_processes() -> None:
    """Drawn runs with real gateways, nodes, files and signals are clean."""
    found = [outcome for outcome in ground.run(range(RUNS)) if not outcome.is_clean]
    assert not found, "\n".join(map(str, found))


def test_a_planted_mistake_is_found_by_real_processes() -> None:
    """Real nodes that forget what they have answered are found out."""
    seeds = (0, 8, 19)
    assert any(not outcome.is_clean for outcome in ground.run(seeds, "operation-memory-off"))


def test_a_stream_under_kills_equals_its_acknowledgements() -> None:
    """Nodes killed at any moment of an operation, some between commit and reply: STM, frequencies and answers agree."""
    outcome = stream.run(0, KILLS)
    assert outcome.is_clean, str(outcome)
    assert len(outcome.faults) == KILLS
    assert stream.AFTER_COMMIT in outcome.faults

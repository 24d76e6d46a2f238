"""The simulation: hundreds of runs of the whole installation, killed and stopped at every await that it has."""

from __future__ import annotations

import pytest

from tests.chaos import sim
from tests.chaos.plants import PLANTS
from tests.chaos.report import Outcome

RUNS = 200
FOUND_WITHIN = 100


@pytest.mark.parametrize("first", range(0, RUNS, 50))
def test_nothing_is_lost(first: int) -> None:
    """Whatever dies, stands still or is out of reach: nothing acknowledged is lost, doubled or reordered, no session is
    unusable, and nobody is left over.
    """
    found = [outcome for seed in range(first, first + 50) if not (outcome := sim.run(seed)).is_clean]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_mistake_is_found(name: str) -> None:
    """Each of the mistakes that this design must not contain is found within 100 runs."""
    with PLANTS[name]():
        outcomes = (sim.run(seed) for seed in range(FOUND_WITHIN))
        assert any(_is_about_operations(outcome) for outcome in outcomes)


def test_a_seed_runs_the_same_again() -> None:
    """A seed is all that there is to a run."""
    for seed in range(5):
        assert str(sim.run(seed)) == str(sim.run(seed))


def _is_about_operations(outcome: Outcome) -> bool:
    findings = outcome.findings
    return bool(findings.lost or findings.doubled or findings.reordered)

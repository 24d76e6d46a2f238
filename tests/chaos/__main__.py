"""Runs the harness: `make chaos CHAOS_RUNS=n CHAOS_SEED=s`, and prints one JSON object as its last line.

CHAOS_GROUND: where (sim, real, docker; all: each its share). CHAOS_PLANT: a mistake that is to be found (plants.py).
SCENARIO: a named one instead of drawn runs. Exit status: 0 if nothing was found, 1 if something was, 2 if this is no
way to ask.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext

from tests.chaos.grounds import GROUNDS, SCENARIOS, Asked, ran
from tests.chaos.plants import PLANTS
from tests.chaos.real.stream import AFTER_COMMIT
from tests.chaos.report import Outcome, summary

RUNS = 200
_TERMINATED = 143


def main() -> int:
    """Run what the environment asks for; return the exit status."""
    try:
        asked = _asked()
    except ValueError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    outcomes = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # nothing of the runs is to be left then, either
    with PLANTS[asked.plant]() if asked.plant else nullcontext():
        for outcome in _runs(asked):
            outcomes.append(outcome)
            if asked.scenario:
                print(f"{len(outcome.faults)} kills, {outcome.faults.count(AFTER_COMMIT)} of them {AFTER_COMMIT}")
            if not outcome.is_clean:
                print(outcome)
                print(f"  again: {asked.again(outcome)}", flush=True)
    print(summary(outcomes))
    return 0 if all(outcome.is_clean for outcome in outcomes) else 1


def _runs(asked: Asked) -> Iterator[Outcome]:
    if asked.scenario:
        yield from SCENARIOS[asked.scenario](asked)
    else:
        yield from ran(asked)


def _asked() -> Asked:
    """Return what the environment asks for. Raises: ValueError."""
    given = os.environ.get
    asked = Asked(
        runs=int(given("CHAOS_RUNS") or RUNS),
        seed=int(given("CHAOS_SEED") or 0),
        ground=given("CHAOS_GROUND") or "all",
        plant=given("CHAOS_PLANT") or "",
        scenario=given("SCENARIO") or "",
    )
    for name, value, known in (
        ("CHAOS_GROUND", asked.ground, (*GROUNDS, "all")),
        ("CHAOS_PLANT", asked.plant, ("", *PLANTS)),
        ("SCENARIO", asked.scenario, ("", *SCENARIOS)),
    ):
        if value not in known:
            raise ValueError(f"{name}: must be one of {', '.join(filter(None, known))}, not {value!r}")
    return asked


if __name__ == "__main__":
    sys.exit(main())

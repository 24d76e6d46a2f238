"""Where runs take place, and which share of them does where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos import sim
from tests.chaos.real import ground as real
from tests.chaos.real import stream
from tests.chaos.report import Outcome
from tests.engine import IMAGE, docker
from tests.mongo import STAND_IN_IMAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the harness is asked for.

    Attributes:
        seed: of the first run; the next ones follow.
        ground: one of GROUNDS, or "all".
        plant, scenario: "" for none.
    """

    runs: int
    seed: int
    ground: str = "all"
    plant: str = ""
    scenario: str = ""

    def again(self, outcome: Outcome) -> str:
        """Return what runs this one again."""
        ground = outcome.ground.partition(" ")[0]
        plant = f" CHAOS_PLANT={self.plant}" if self.plant else ""
        scenario = f" SCENARIO={self.scenario}" if self.scenario else ""
        return f"make chaos CHAOS_RUNS=1 CHAOS_SEED={outcome.seed} CHAOS_GROUND={ground}{plant}{scenario}"


Ground = Callable[[Sequence[int], str], Iterator[Outcome]]
"""Runs the plans of these seeds, with this mistake planted where it is not in the process already."""


def _sim(seeds: Sequence[int], _plant: str) -> Iterator[Outcome]:
    for seed in seeds:
        yield sim.run(seed)


GROUNDS: Mapping[str, Ground] = {"sim": _sim, "real": real.run, "docker": real.run_in_containers}
SCENARIOS: Mapping[str, Callable[[Asked], Iterator[Outcome]]] = {
    "stream-kills": lambda asked: iter([stream.on_files(asked.seed, asked.runs)]),
    "stream-kills-mongo": lambda asked: iter([stream.on_mongo(asked.seed, asked.runs)]),
    "stream-kills-docker": lambda asked: iter([stream.in_containers(asked.seed, asked.runs)]),
}
"""Where CHAOS_RUNS counts something else: kills."""


def ran(asked: Asked) -> Iterator[Outcome]:
    """Run what is asked for: of 20 runs 1 in containers and 6 with real processes, unless the ground is given.

    Without an engine and its images those in containers are real processes, too; a planted mistake is simulated.
    """
    shares: dict[str, list[int]] = {ground: [] for ground in GROUNDS}
    of_containers = "docker" if asked.ground == "all" and has_containers() else "real"
    for seed in range(asked.seed, asked.seed + asked.runs):
        ground = asked.ground
        if ground == "all":
            place = seed % 20
            ground = of_containers if place == 0 else "real" if place <= 6 else "sim"
            ground = "sim" if asked.plant else ground
        shares[ground].append(seed)
    for ground, seeds in shares.items():
        if seeds:
            yield from GROUNDS[ground](seeds, asked.plant)


def has_containers() -> bool:
    """Whether an engine answers and has the images."""
    try:
        docker("image", "inspect", IMAGE, STAND_IN_IMAGE)
    except (OSError, RuntimeError):
        return False
    return True

"""What a benchmark is, how rows are run, printed and kept."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What one benchmark found.

    Attributes:
        value: the number that the target is about, in `unit`.
        holds: whether the target is met.
        versus: what it was compared with in the same run, in words; "" if with nothing.
        samples: the raw samples by name; milliseconds unless the name says otherwise.
    """

    value: float
    unit: str
    target: str
    holds: bool
    samples: Mapping[str, Sequence[float]]
    versus: str = ""


Benchmark = Callable[[], Measure]
BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(function: Benchmark) -> Benchmark:
    """Enter a function as the benchmark of its name."""
    BENCHMARKS[function.__name__] = function
    return function


def timed_ms(action: Callable[[], object]) -> float:
    """Return how long the action takes, in milliseconds."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1e3


def interleaved(*actions: Callable[[], object], rounds: int, calls: int) -> list[list[float]]:
    """Time each action `calls` times in each round, round by round, so that noise hits all of them alike."""
    samples: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, kept in zip(actions, samples, strict=True):
            kept.extend(timed_ms(action) for _ in range(calls))
    return samples


def median(samples: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(samples)


def run(names: Sequence[str]) -> bool:
    """Run the named benchmarks (none: all), print a table, merge the results into latest.json; tell if all hold."""
    found: dict[str, Measure] = {}
    print(f"{'name':20}{'value':>12} {'unit':8}{'target':26}{'holds':7}versus")
    for name in names or BENCHMARKS:
        found[name] = measure = BENCHMARKS[name]()
        holds = "yes" if measure.holds else "no"
        print(
            f"{name:20}{measure.value:12.3f} {measure.unit:8}{measure.target:26}{holds:7}{measure.versus}", flush=True
        )
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept | {name: asdict(measure) for name, measure in found.items()}, indent=1))
    return all(measure.holds for measure in found.values())

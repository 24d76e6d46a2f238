"""What the runs came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.chaos.checker import Findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run came to.

    Attributes:
        ground: where it ran.
        findings: of its clients' history.
        orphans: processes or containers that belonged to nobody in the end.
        epochs: processors that more than one node answered for in the end.
        unusable: sessions that did not work any more.
        calls: operations that clients were told of; faults: what really went wrong.
        words: what was found, in words.
    """

    ground: str
    seed: int
    findings: Findings = field(default_factory=Findings)
    orphans: int = 0
    epochs: int = 0
    unusable: int = 0
    calls: int = 0
    faults: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The numbers that must all be 0."""
        found = self.findings
        return {
            "lost": found.lost,
            "doubled": found.doubled,
            "reordered": found.reordered,
            "orphans": self.orphans,
            "epochs": self.epochs,
            "unusable": self.unusable,
        }

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not any(self.counts.values())

    def also(self, *, orphans: int, words: Sequence[str]) -> Outcome:
        """Return the outcome with what was found later."""
        return replace(self, orphans=self.orphans + orphans, words=(*self.words, *words))

    def __str__(self) -> str:
        found = ", ".join(f"{name} {count}" for name, count in self.counts.items() if count)
        lines = [f"seed {self.seed} ({self.ground}): {found or 'clean'}", *(f"  fault: {each}" for each in self.faults)]
        return "\n".join([*lines, *(f"  {each}" for each in (*self.words, *self.findings.words))])


def summary(outcomes: list[Outcome]) -> str:
    """Return the one JSON object that says it all."""
    totals = {name: sum(outcome.counts[name] for outcome in outcomes) for name in Outcome(ground="", seed=0).counts}
    of = {ground: sum(outcome.ground.startswith(ground) for outcome in outcomes) for ground in ("real", "docker")}
    calls = sum(outcome.calls for outcome in outcomes)
    faults = sum(len(outcome.faults) for outcome in outcomes)
    return json.dumps({"runs": len(outcomes), **of, **totals, "calls": calls, "faults": faults})

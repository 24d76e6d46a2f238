"""A kept candidate: a pattern, what of it the STM matched, and where that lies among its events."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from kato_node.domain.learn import Pattern
from kato_node.domain.matching import Run
from kato_node.domain.shape import Shape
from kato_node.domain.state import Event, Stm


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A pattern that the STM is like.

    Attributes:
        length: symbols of the pattern (L in processor.md, section 6).
        stm_length: symbols of the STM (n).
        matches: the matched symbols, in order (m of them).
        run_count: the runs they form (k).
        similarity: 2m / (L+n).
        first, last: the present is pattern.events[first:last].
        present_length: symbols of the present.
        counts: the present's symbols, each with how often it stands there.
    """

    pattern: Pattern
    length: int
    stm_length: int
    matches: tuple[str, ...]
    run_count: int
    similarity: float
    first: int
    last: int
    present_length: int
    counts: Mapping[str, int]

    @property
    def past(self) -> Stm:
        """The events before the present."""
        return self.pattern.events[: self.first]

    @property
    def present(self) -> Stm:
        """From the event of the first matched symbol to that of the last, whole; all of them if none matched."""
        return self.pattern.events[self.first : self.last]

    @property
    def future(self) -> Stm:
        """The events after the present."""
        return self.pattern.events[self.last :]

    @property
    def missing(self) -> tuple[Event, ...]:
        """For each present event, its symbols that are not among the matches."""
        matches = frozenset(self.matches)
        return tuple(_without(event, matches) for event in self.present)

    def extras(self, stm: Stm) -> tuple[Event, ...]:
        """Return, for each STM event, its symbols that occur nowhere in the present."""
        return tuple(_without(event, self.counts) for event in stm)


def _without(event: Event, symbols: Container[str]) -> Event:
    return tuple([symbol for symbol in event if symbol not in symbols])


def candidate(pattern: Pattern, shape: Shape, stm_symbols: Sequence[str], runs: Sequence[Run]) -> Candidate:
    """Return the candidate that these runs make of the pattern."""
    matches = tuple(symbol for run in runs for symbol in stm_symbols[run.j : run.j + run.length])
    ends = shape.ends
    first, last = 0, len(ends)
    if runs:
        first = bisect_right(ends, runs[0].i)
        last = bisect_right(ends, runs[-1].i + runs[-1].length - 1) + 1
    present = shape.symbols[ends[first - 1] if first else 0 : ends[last - 1]]
    length = len(shape.symbols)
    return Candidate(
        pattern=pattern,
        length=length,
        stm_length=len(stm_symbols),
        matches=matches,
        run_count=len(runs),
        similarity=similarity(len(matches), length, len(stm_symbols)),
        first=first,
        last=last,
        present_length=len(present),
        counts=Counter(present),
    )


def similarity(matched: int, length: int, stm_length: int) -> float:
    """Return 2m / (L+n)."""
    return 2 * matched / (length + stm_length)

"""What can be told of all patterns together: lists, and statistics of symbols. Derived, never stored."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kato_node.domain.emotives import averaged
from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import LtmView


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a list of patterns, by name.

    Attributes:
        after: what the next page begins after; None: this is the last.
        total: patterns of the whole list.
    """

    patterns: Sequence[Pattern]
    after: str | None
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolStatistics:
    """A symbol's part in the LTM.

    Attributes:
        frequency: how often it was learned: over all patterns, the pattern's frequency times its occurrences there.
        pattern_member_frequency: how many patterns contain it.
    """

    frequency: int
    pattern_member_frequency: int


def listing(view: LtmView, *, contains: str | None = None) -> Sequence[Pattern]:
    """Return all patterns, or those that contain the symbol, by name. Cost: O(n log n) in their number."""
    found = _patterns(view) if contains is None else _containing(view, contains)
    return sorted(found, key=_name)


def page(patterns: Sequence[Pattern], *, after: str, limit: int) -> Page:
    """Return at most `limit` patterns of a listing: those whose names come after."""
    first = bisect_right(patterns, after, key=_name)
    shown = patterns[first : first + limit]
    more = first + limit < len(patterns)
    return Page(patterns=shown, after=shown[-1].name if more else None, total=len(patterns))


def symbol_statistics(view: LtmView) -> Mapping[str, SymbolStatistics]:
    """Return the statistics of every symbol, by symbol. Cost: O(symbols of all patterns)."""
    frequency: Counter[str] = Counter()
    members: Counter[str] = Counter()
    for pattern in _patterns(view):
        occurrences = _occurrences(pattern)
        members.update(occurrences.keys())
        for symbol, count in occurrences.items():
            frequency[symbol] += count * pattern.frequency
    return {
        symbol: SymbolStatistics(frequency=frequency[symbol], pattern_member_frequency=members[symbol])
        for symbol in sorted(members)
    }


def affinities(view: LtmView) -> Mapping[str, Mapping[str, float]]:
    """Return for every symbol, per emotive, the sum over the patterns that contain it of the pattern's emotive.

    A pattern's emotive is its window's mean, as a prediction shows it.
    """
    felt: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for pattern in _patterns(view):
        means = averaged(pattern.emotives)
        for symbol in _occurrences(pattern):
            of_symbol = felt[symbol]
            for emotive, mean in means.items():
                of_symbol[emotive].append(mean)
    return {
        symbol: {emotive: math.fsum(felt[symbol][emotive]) + 0.0 for emotive in sorted(felt[symbol])}
        for symbol in sorted(felt)
    }


def _patterns(view: LtmView) -> Iterator[Pattern]:
    return (pattern for pattern in view.patterns if pattern is not None)


def _containing(view: LtmView, symbol: str) -> Iterator[Pattern]:
    found = (view.patterns[slot] for slot in view.slots_with(symbol))
    return (pattern for pattern in found if pattern is not None)


def _occurrences(pattern: Pattern) -> Counter[str]:
    return Counter(symbol for event in pattern.events for symbol in event)


def _name(pattern: Pattern) -> str:
    return pattern.name

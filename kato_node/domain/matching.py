"""Ratcliff/Obershelp on whole symbols: the runs that a pattern and an STM have in common (processor.md, section 6).

Exactly `difflib.SequenceMatcher(None, pattern, stm, autojunk=False)`, in bits: each STM position has an integer whose
bit i says that the pattern has the same symbol at position i. The positions where a run of 2k begins are those where a
run of k begins and another follows it, so a few shifts and ands find the runs of 1, 2, 4, 8, …; any other length is a
sum of those.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple, TypeAlias

BITS_MAX = 1 << 28  # of all STM positions together: 32 MiB. Beyond, difflib needs less memory, if more time.

Masks: TypeAlias = Mapping[str, int]


class Run(NamedTuple):
    """A common run: `length` symbols from position `i` of the pattern and from position `j` of the STM."""

    i: int
    j: int
    length: int


class _Box(NamedTuple):
    """A part of the comparison: pattern positions i_low..i_high-1 by STM positions j_low..j_high-1."""

    i_low: int
    i_high: int
    j_low: int
    j_high: int


class _Level:
    """Where runs of one length begin: STM positions in order, and for each the pattern positions as bits."""

    __slots__ = ("positions", "starts")

    def __init__(self, starts: dict[int, int]) -> None:
        self.starts = starts
        self.positions = list(starts)

    def within(self, box: _Box, length: int) -> dict[int, int]:
        """Return those of the runs that lie in the box."""
        low = bisect_left(self.positions, box.j_low)
        high = bisect_left(self.positions, box.j_high - length + 1, low)
        window = _window(box, length)
        starts = self.starts
        return {j: bits for j in self.positions[low:high] if (bits := starts[j] & window)}


def masks_of(positions: Iterable[tuple[int, str]]) -> dict[str, int]:
    """Return, for each symbol, its positions as bits."""
    masks: dict[str, int] = {}
    for i, symbol in positions:
        masks[symbol] = masks.get(symbol, 0) | 1 << i
    return masks


def match(pattern: Sequence[str], stm: Sequence[str]) -> list[Run]:
    """Return the common runs in order: the longest, ties to the smallest position in pattern, then in STM; recursively.

    Cost: O(STM positions that match · log of the longest run), each step on integers of len(pattern) bits, per depth
    of the recursion.
    """
    if len(pattern) * len(stm) > BITS_MAX:
        blocks = SequenceMatcher(None, pattern, stm, autojunk=False).get_matching_blocks()
        return [Run(*block) for block in blocks if block.size]
    among = frozenset(stm)
    masks = masks_of((i, symbol) for i, symbol in enumerate(pattern) if symbol in among)
    return match_masks(masks, len(pattern), stm)


def match_masks(masks: Masks, length: int, stm: Sequence[str]) -> list[Run]:
    """Return the same for a pattern of `length` symbols of which the masks are known."""
    rows = {j: mask for j, symbol in enumerate(stm) if (mask := masks.get(symbol))}
    if not rows:
        return []
    levels = _levels(rows)
    found: list[Run] = []
    boxes = [_Box(0, length, 0, len(stm))]
    while boxes:
        box = boxes.pop()
        size, starts = _longest(levels, box)
        if size == 1:
            found += _greedy(starts)
        elif size:
            run = _first(starts, size)
            found.append(run)
            boxes += (
                _Box(box.i_low, run.i, box.j_low, run.j),
                _Box(run.i + size, box.i_high, run.j + size, box.j_high),
            )
    return sorted(found)


def _levels(rows: dict[int, int]) -> list[_Level]:
    """Return where runs of 1, 2, 4, 8, … begin, as long as there are any."""
    levels = [_Level(rows)]
    length = 1
    while True:
        shorter = levels[-1].starts
        starts = {j: bits for j, begin in shorter.items() if (bits := begin & (shorter.get(j + length, 0) >> length))}
        if not starts:
            return levels
        levels.append(_Level(starts))
        length *= 2


def _longest(levels: list[_Level], box: _Box) -> tuple[int, dict[int, int]]:
    """Return the length of the longest run in the box, and where runs of that length begin; 0 if there is none."""
    length = 0
    starts: dict[int, int] = {}
    reach = min(box.i_high - box.i_low, box.j_high - box.j_low)
    for power in reversed(range(len(levels))):
        step = 1 << power
        if length + step > reach:
            continue
        longer = (
            _extended(starts, length, levels[power].starts, step, box) if length else levels[power].within(box, step)
        )
        if longer:
            length, starts = length + step, longer
    return length, starts


def _extended(starts: dict[int, int], length: int, following: dict[int, int], step: int, box: _Box) -> dict[int, int]:
    """Return where runs of `length` begin that a run of `step` follows, as far as the whole lies in the box."""
    window = _window(box, length + step)
    last = box.j_high - length - step
    return {
        j: bits
        for j, begin in starts.items()
        if j <= last and (bits := begin & window & (following.get(j + length, 0) >> length))
    }


def _window(box: _Box, length: int) -> int:
    """Return the pattern positions, as bits, where a run of that length can begin in the box."""
    return (1 << max(box.i_high - length + 1, 0)) - (1 << box.i_low) if box.i_high - length >= box.i_low else 0


def _first(starts: dict[int, int], length: int) -> Run:
    """Return the run that begins first in the pattern, ties to the first in the STM."""
    low, j = min((bits & -bits, j) for j, bits in starts.items())
    return Run(low.bit_length() - 1, j, length)


def _greedy(starts: dict[int, int]) -> list[Run]:
    """Return the runs where no two symbols match in a row: nothing is ever left of the first, so one pass suffices."""
    found = []
    while starts:
        run = _first(starts, 1)
        found.append(run)
        starts = {j: rest for j, bits in starts.items() if j > run.j and (rest := bits >> run.i + 1 << run.i + 1)}
    return found

"""Ratcliff/Obershelp on whole symbols: the runs that a pattern and an STM have in common (processor.md, section 6).

Exactly `difflib.SequenceMatcher(None, pattern, stm, autojunk=False)`, with one integer for a comparison, its grid: bit
i·width + j says that pattern[i] is stm[j]. The grid is at least one column wider than the STM, and what is beyond the
STM stays 0, so that a shift by width + 1 brings to each match the one that follows it in both, and nothing else:

- runs of two begin at grid & grid >> (width + 1), runs of four at two & two >> 2·(width + 1), and so on;
- of equals, the run at the lowest bit comes first in the pattern, then in the STM;
- what lies left of a run in both is the grid's lower rows and columns, what lies right of it the upper ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

# A grid costs time for every bit, difflib for every symbol and match, some 200 times as much: where matches are few and
# the grid is large, difflib is faster. It also needs less memory, where a grid would take more than 32 MiB.
_SPARSE = 200
_GRID_BITS_MAX = 1 << 28


class Run(NamedTuple):
    """A common run: `length` symbols from position `i` of the pattern and from position `j` of the STM."""

    i: int
    j: int
    length: int


class Matcher:
    """Compares one STM with any number of patterns."""

    def __init__(self, stm: Sequence[str]) -> None:
        self._stm = stm
        self._rows = _Rows(stm)

    def runs(self, pattern: Sequence[str]) -> list[Run]:
        """Return the common runs in order: the longest, ties to the smallest position in the pattern, then in the STM;
        and so on to its left and right.

        Cost: per depth of the recursion a few operations on integers of len(pattern) · len(stm) bits.
        """
        if self._is_sparse(pattern):
            blocks = SequenceMatcher(None, pattern, self._stm, autojunk=False).get_matching_blocks()
            return [Run(*block) for block in blocks if block.size]
        grid = int.from_bytes(b"".join(map(self._rows.__getitem__, pattern)), "little")
        return _runs(grid, len(pattern), self._rows.width_bytes)

    def _is_sparse(self, pattern: Sequence[str]) -> bool:
        """Tell whether difflib is the better way."""
        bits = len(pattern) * len(self._stm)
        if bits <= _SPARSE * len(pattern):
            return False
        return bits > _GRID_BITS_MAX or bits > _SPARSE * (len(pattern) + self._rows.matches(pattern))


class _Rows(dict[str, bytes]):
    """Symbol -> its STM positions as bits, little-endian; made when first asked for."""

    def __init__(self, stm: Sequence[str]) -> None:
        super().__init__()
        self.width_bytes = len(stm) // 8 + 1
        self._empty = bytes(self.width_bytes)
        self._positions: defaultdict[str, list[int]] = defaultdict(list)
        for j, symbol in enumerate(stm):
            self._positions[symbol].append(j)

    def __missing__(self, symbol: str) -> bytes:
        row = self._empty
        if symbol in self._positions:
            bits = bytearray(self.width_bytes)
            for j in self._positions[symbol]:
                bits[j >> 3] |= 1 << (j & 7)
            row = bytes(bits)
        self[symbol] = row
        return row

    def matches(self, pattern: Sequence[str]) -> int:
        """Return how many pairs of equal symbols, one of the pattern and one of the STM, there are."""
        return sum(len(self._positions[symbol]) for symbol in pattern if symbol in self._positions)


def _runs(grid: int, height: int, width_bytes: int) -> list[Run]:
    """Return the runs of a whole grid."""
    width = 8 * width_bytes
    column = int.from_bytes(height * (b"\1" + bytes(width_bytes - 1)), "little")  # the first bit of each row
    found = []
    boxes = [(grid, 0, height)]  # parts of the grid yet to be searched, each with its first row and how many it has
    while boxes:
        box, top, rows = boxes.pop()
        if not box:
            continue
        length, starts = _longest(box, width + 1)
        i, j = divmod((starts & -starts).bit_length() - 1, width)
        found.append(Run(top + i, j, length))
        if length > 1 and i and j:  # where no run is longer than 1, nothing is above the first or left of it
            ones = column >> (height - i) * width
            boxes.append((box & (ones << j) - ones, top, i))
        if rest := rows - i - length:
            ones = column >> (height - rest) * width
            after = box >> (rows - rest) * width & (ones << width) - (ones << j + length)
            boxes.append((after, top + rows - rest, rest))
    return sorted(found)


def _longest(box: int, step: int) -> tuple[int, int]:
    """Return the length of the longest run in the box, which is not empty, and where runs of that length begin."""
    powers = [box]
    length = 1
    while longer := powers[-1] & powers[-1] >> step * length:
        powers.append(longer)
        length *= 2
    starts = powers.pop()
    while powers:
        following = powers.pop()
        if longer := starts & following >> step * length:
            starts = longer
            length += 1 << len(powers)
    return length, starts

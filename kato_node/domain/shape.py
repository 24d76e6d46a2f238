"""The shape of a pattern: its events flattened, and where each of them ends."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from kato_node.domain.state import Stm, flattened


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What matching and projection need of a pattern's events, worked out once.

    Attributes:
        symbols: of all events, in one row.
        ends: for each event, the position after its last symbol.
    """

    symbols: tuple[str, ...]
    ends: tuple[int, ...]


def shape_of(events: Stm) -> Shape:
    """Return the shape of a pattern with these events."""
    return Shape(symbols=flattened(events), ends=tuple(accumulate(map(len, events))))

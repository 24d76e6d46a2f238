"""The shape of a pattern: what matching and projection need of its events, worked out once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate

from kato_node.domain.matching import Masks, Run, masks_of, match, match_masks
from kato_node.domain.state import Stm, flattened

# Masks grow with the square of a pattern's length: those of longer ones are made when they are compared.
MASKED_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A pattern's events, flattened and indexed.

    Attributes:
        length: symbols in all.
        ends: for each event, the position after its last symbol.
        masks: symbol -> its positions as bits; None if the pattern is too long to keep them.
    """

    events: Stm
    length: int
    ends: tuple[int, ...]
    masks: Masks | None

    @property
    def symbols(self) -> Collection[str]:
        """The distinct symbols."""
        return set(flattened(self.events)) if self.masks is None else self.masks.keys()

    def match(self, stm: tuple[str, ...]) -> list[Run]:
        """Return the runs that the pattern and the STM's symbols have in common; see `matching.match`."""
        if self.masks is None:
            return match(flattened(self.events), stm)
        return match_masks(self.masks, self.length, stm)


def shape_of(events: Stm) -> Shape:
    """Return the shape of a pattern with these events."""
    ends = tuple(accumulate(map(len, events)))
    length = ends[-1] if ends else 0
    masks = masks_of(enumerate(flattened(events))) if length <= MASKED_MAX else None
    return Shape(events=events, length=length, ends=ends, masks=masks)

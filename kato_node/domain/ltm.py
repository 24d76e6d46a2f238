"""The LTM in memory: patterns and learned vectors, what a learn changes of them, and the view that predictions read.

Of the domain, only `Ltm` and `Staged` change; each is owned by one event loop. Whatever they hand out does not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import ChainMap, Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, cast

from kato_node.domain.errors import MemoryTooLarge
from kato_node.domain.learn import Episode, Pattern, merged
from kato_node.domain.limits import LIMITS, Limits
from kato_node.domain.shape import Shape, shape_of
from kato_node.domain.state import Vector, entry_bytes, event_bytes
from kato_node.domain.vectors import PREFIX as VECTOR_PREFIX
from kato_node.domain.vectors import require_dimension, symbol_of


class LtmReader(Protocol):
    """What a learn must know of the LTM."""

    @property
    def dimension(self) -> int | None:
        """The length of every learned vector; None until one was learned."""

    @property
    def vectors(self) -> Mapping[str, Vector]:
        """The learned vectors by symbol."""

    def get(self, name: str) -> Pattern | None:
        """Return the pattern of that bare name."""

    def vector_uses(self, symbol: str) -> int:
        """Return how many patterns contain a vector's symbol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LtmChange:
    """One change of the LTM; its parts apply in the order of the fields.

    Attributes:
        cleared: every pattern and vector, and the dimension, go first.
        put: patterns as they are from now on, new or known.
        deleted: bare names.
        forgotten: symbols of learned vectors that no pattern contains any more.
        dimensionless: no vector is left, and so no dimension.
        vectors: (symbol, values) of newly learned vectors.
        dimension: the processor's, when this change makes it known.
    """

    cleared: bool = False
    put: tuple[Pattern, ...] = ()
    deleted: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    dimensionless: bool = False
    vectors: tuple[tuple[str, Vector], ...] = ()
    dimension: int | None = None


CLEARED = LtmChange(cleared=True)
UNCHANGED = LtmChange()


def added(ltm: LtmReader, pattern: Pattern, vectors: Sequence[Vector] = (), *, limits: Limits = LIMITS) -> LtmChange:
    """Return the change that puts the pattern, and learns those of the vectors that are new.

    Raises: VectorDimensionMismatch (others were learned first), MemoryTooLarge.
    """
    dimension = ltm.dimension
    for vector in vectors:
        require_dimension(vector, dimension)
        dimension = len(vector)
    if (size := pattern_bytes(pattern)) > limits.pattern_bytes_max:
        raise MemoryTooLarge(
            what="pattern",
            actual=size,
            limit=limits.pattern_bytes_max,
            unit="bytes",
            advice="clear-stm gives up what was observed; shorter sequences, or less metadata, can be learned",
        )
    named = {symbol_of(vector): vector for vector in vectors}
    return LtmChange(
        put=(pattern,),
        vectors=tuple((symbol, vector) for symbol, vector in named.items() if symbol not in ltm.vectors),
        dimension=dimension if ltm.dimension is None else None,
    )


def learned_into(ltm: LtmReader, episode: Episode, *, limits: Limits = LIMITS) -> LtmChange:
    """Return what learning the episode changes of this LTM.

    Raises: VectorDimensionMismatch (another session's vectors were learned first), MemoryTooLarge.
    """
    return added(ltm, merged(ltm.get(episode.name), episode), episode.vectors, limits=limits)


def pattern_bytes(pattern: Pattern) -> int:
    """Return what a pattern counts against its limit: symbols in UTF-8, emotives and metadata as JSON text."""
    events = sum(map(event_bytes, pattern.events))
    return events + sum(map(entry_bytes, pattern.emotives)) + entry_bytes(pattern.metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class LtmView:
    """The LTM as of one version; safe to read from any thread while the `Ltm` goes on changing.

    Patterns have slots, in order of arrival. The posting lists only ever grow at their end, so that what lies below
    the view's number of slots is the view's own.

    Attributes:
        version: the Ltm's, when the view was taken.
        patterns: by slot; None where one was deleted.
        pattern_count, symbol_count, frequency_sum: patterns, distinct symbols and sum of the stored frequencies.
    """

    version: int
    patterns: tuple[Pattern | None, ...]
    shapes: Sequence[Shape]
    postings: Mapping[str, Sequence[int]]
    pattern_count: int
    symbol_count: int
    frequency_sum: int

    def slots_with(self, symbol: str) -> Sequence[int]:
        """Return the slots of the patterns that contain the symbol."""
        posting = self.postings.get(symbol, ())
        return posting[: bisect_left(posting, len(self.patterns))]

    def document_frequency(self, symbol: str) -> int:
        """Return how many patterns contain the symbol."""
        return bisect_left(self.postings.get(symbol, ()), len(self.patterns))


class Ltm:
    """All patterns and learned vectors of one processor, indexed."""

    def __init__(self) -> None:
        self.version = 0
        self._dimension: int | None = None
        self._vectors: dict[str, Vector] = {}
        self._view: LtmView | None = None
        self._reindex(())

    @property
    def dimension(self) -> int | None:
        """The length of every learned vector; None until one was learned."""
        return self._dimension

    @property
    def vectors(self) -> Mapping[str, Vector]:
        """The learned vectors by symbol, as they are now."""
        return MappingProxyType(self._vectors)

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, name: str) -> Pattern | None:
        """Return the pattern of that bare name."""
        slot = self._slots.get(name)
        return None if slot is None else self._patterns[slot]

    def vector_uses(self, symbol: str) -> int:
        """Return how many patterns contain a vector's symbol."""
        return len(self._postings.get(symbol, ()))

    def apply(self, change: LtmChange) -> None:
        """Make the change; views taken before do not see it.

        Cost: O(symbols) per pattern put; a deletion copies the posting lists of its symbols.
        """
        if change.cleared:
            self._dimension = None
            self._vectors = {}
            self._reindex(())
        for pattern in change.put:
            self._put(pattern)
        if change.deleted:
            self._delete(change.deleted)
        for symbol in change.forgotten:
            self._vectors.pop(symbol, None)
        if change.dimensionless:
            self._dimension = None
        self._vectors.update(change.vectors)
        if change.dimension is not None:
            self._dimension = change.dimension
        self.version += 1
        self._view = None

    def view(self) -> LtmView:
        """Return the LTM as it is now. Cost: O(patterns) after a change, else nothing."""
        if self._view is None:
            self._view = LtmView(
                version=self.version,
                patterns=tuple(self._patterns),
                shapes=self._shapes,
                postings=self._postings,
                pattern_count=len(self._slots),
                symbol_count=len(self._postings),
                frequency_sum=self._frequency_sum,
            )
        return self._view

    def _reindex(self, patterns: Iterable[Pattern]) -> None:
        """Start over with these patterns, in new containers: views keep the old ones."""
        self._slots: dict[str, int] = {}
        self._patterns: list[Pattern | None] = []
        self._shapes: list[Shape] = []
        self._postings: dict[str, list[int]] = {}
        self._frequency_sum = 0
        for pattern in patterns:
            self._put(pattern)

    def _put(self, pattern: Pattern) -> None:
        known = self.get(pattern.name)
        self._frequency_sum += pattern.frequency - (known.frequency if known else 0)
        if known:
            self._patterns[self._slots[pattern.name]] = pattern
            return
        slot = len(self._patterns)
        shape = shape_of(pattern.events)
        self._slots[pattern.name] = slot
        self._patterns.append(pattern)
        self._shapes.append(shape)
        for symbol in set(shape.symbols):
            self._postings.setdefault(symbol, []).append(slot)

    def _delete(self, names: Iterable[str]) -> None:
        """Delete the patterns there are of these names."""
        self._postings = dict(self._postings)  # views keep the old dict, and below the old lists
        for name in names:
            slot = self._slots.pop(name, None)
            if slot is None:
                continue
            pattern = self._patterns[slot]
            assert pattern is not None, "a slot in use has a pattern"
            self._patterns[slot] = None
            self._frequency_sum -= pattern.frequency
            for symbol in set(self._shapes[slot].symbols):
                if rest := [other for other in self._postings[symbol] if other != slot]:
                    self._postings[symbol] = rest
                else:
                    del self._postings[symbol]
        if len(self._patterns) > 2 * len(self._slots):
            self._reindex([pattern for pattern in self._patterns if pattern is not None])


class Staged:
    """An LTM with changes on top that are decided and not yet committed; the LTM below is not touched."""

    def __init__(self, base: LtmReader) -> None:
        self._base: LtmReader = base
        self._patterns: dict[str, Pattern | None] = {}
        self._vectors: ChainMap[str, Vector] = ChainMap({}, cast("MutableMapping[str, Vector]", base.vectors))
        self._vector_uses: Counter[str] = Counter()
        self._dimension = base.dimension
        self._cleared = False

    @property
    def dimension(self) -> int | None:
        """The length of every learned vector; None until one was learned."""
        return self._dimension

    @property
    def vectors(self) -> Mapping[str, Vector]:
        """The learned vectors by symbol, as they would be."""
        return self._vectors

    def get(self, name: str) -> Pattern | None:
        """Return the pattern of that bare name, as it would be."""
        if name in self._patterns or self._cleared:
            return self._patterns.get(name)
        return self._base.get(name)

    def vector_uses(self, symbol: str) -> int:
        """Return how many patterns would contain a vector's symbol."""
        return self._vector_uses[symbol] + (0 if self._cleared else self._base.vector_uses(symbol))

    def apply(self, change: LtmChange) -> None:
        """Put the change on top."""
        if change.cleared:
            self._patterns = {}
            self._vectors = ChainMap({})
            self._vector_uses.clear()
            self._dimension = None
            self._cleared = True
        for pattern in change.put:
            if self.get(pattern.name) is None:
                self._vector_uses.update(_vector_symbols(pattern))
            self._patterns[pattern.name] = pattern
        for name in change.deleted:
            if (known := self.get(name)) is not None:
                self._vector_uses.subtract(_vector_symbols(known))
            self._patterns[name] = None
        if change.forgotten:
            gone = set(change.forgotten)
            self._vectors = ChainMap({symbol: self._vectors[symbol] for symbol in self._vectors if symbol not in gone})
        if change.dimensionless:
            self._dimension = None
        self._vectors.update(change.vectors)
        if change.dimension is not None:
            self._dimension = change.dimension


def _vector_symbols(pattern: Pattern) -> set[str]:
    """Return the pattern's symbols that look like a vector's; others need not be counted."""
    return {symbol for event in pattern.events for symbol in event if symbol.startswith(VECTOR_PREFIX)}

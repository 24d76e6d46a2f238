"""The values of one session (processor.md, section 1). All immutable: nothing is ever changed in place.

Mappings and JSON values are plain dicts and lists, as decoded; they are shared between values and never written to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Event: TypeAlias = tuple[str, ...]
Stm: TypeAlias = tuple[Event, ...]
Vector: TypeAlias = tuple[float, ...]
Emotives: TypeAlias = Mapping[str, float]
Metadata: TypeAlias = Mapping[str, Json]

_UNMEASURED = -1
_SYMBOL_BYTES_MIN = 4  # what the shortest symbol counts, since quotes and commas are kept too
_ENTRY_BYTES = 64  # what an entry costs besides its text, so that many tiny ones count too


@dataclass(frozen=True, slots=True, kw_only=True)
class Percept:
    """The latest observation as it was perceived.

    Attributes:
        strings: sorted by code point, whatever `sort_symbols` says.
        vectors: as given, before they are summed.
    """

    strings: tuple[str, ...]
    vectors: tuple[Vector, ...]
    emotives: Emotives
    metadata: Metadata

    def as_dict(self) -> dict[str, Json]:
        """Return the percept as the interfaces show it."""
        return {
            "strings": self.strings,
            "vectors": self.vectors,
            "emotives": self.emotives,
            "metadata": self.metadata,
            "path": (),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """One session's STM and what travels with it.

    Attributes:
        stm: the events since the last learn, oldest first; no event is empty.
        event_times: the `time` at which each of them was observed, parallel to `stm`.
        time: observations since the last clear, empty ones included.
        emotives: (time, emotives) of each observation since the last learn that had any, oldest first.
        metadata: the same of metadata.
        percept: None before the first observation and after a clear.
        vectors: the summed vector of each observation since the last learn that had any, oldest first.
        stm_bytes: what its events count (event_bytes). Derived: leave it out, and it is measured.
        carried_bytes: bytes of emotives, metadata and vectors. Derived like `stm_bytes`; both are carried along so that
            an observe need not measure the whole STM.
    """

    stm: Stm = ()
    event_times: tuple[int, ...] = ()
    time: int = 0
    emotives: tuple[tuple[int, Emotives], ...] = ()
    metadata: tuple[tuple[int, Metadata], ...] = ()
    percept: Percept | None = None
    vectors: tuple[Vector, ...] = ()
    stm_bytes: int = field(default=_UNMEASURED, repr=False)
    carried_bytes: int = field(default=_UNMEASURED, repr=False)

    def __post_init__(self) -> None:
        assert len(self.event_times) == len(self.stm), "every event has its time"
        if self.stm_bytes == _UNMEASURED:
            object.__setattr__(self, "stm_bytes", sum(map(event_bytes, self.stm)))
        if self.carried_bytes == _UNMEASURED:
            entries = sum(map(entry_bytes, (entry for _, entry in (*self.emotives, *self.metadata))))
            object.__setattr__(self, "carried_bytes", entries + sum(map(vector_bytes, self.vectors)))


def text_bytes(text: str) -> int:
    """Return the length of the text in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode())


def event_bytes(event: Event) -> int:
    """Return what the event counts against the limits: its symbols' UTF-8 bytes, at least 4 for each."""
    return sum(max(_SYMBOL_BYTES_MIN, text_bytes(symbol)) for symbol in event)


def entry_bytes(entry: Emotives | Metadata) -> int:
    """Return what one observation's emotives or metadata count against the limits: JSON text and a fixed share."""
    return _ENTRY_BYTES + text_bytes(json.dumps(entry, ensure_ascii=False))


def vector_bytes(vector: Vector) -> int:
    """Return the bytes of the vector's float64 values."""
    return 8 * len(vector)


def flattened(events: Stm) -> tuple[str, ...]:
    """Return the symbols of all events in one row."""
    return tuple(chain.from_iterable(events))


EMPTY = SessionState()

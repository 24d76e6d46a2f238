"""Export and import: a processor's patterns as lines, and what merging such a line changes.

An import is named by the hash of its header line. Every pattern remembers the imports that it was part of, so that a
line applies once however often it is sent. Deleting a pattern, or all of them, deletes this with it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from kato_node.domain.edit import FREQUENCY_MAX, checked_frequency, checked_metadata, checked_window
from kato_node.domain.errors import ValidationFailed
from kato_node.domain.learn import (
    SYMBOLS_MIN,
    Pattern,
    bare_name,
    display_name,
    pattern_name,
    with_texts,
)
from kato_node.domain.limits import LIMITS, Limits
from kato_node.domain.ltm import UNCHANGED, LtmChange, LtmReader, added
from kato_node.domain.observation import Check
from kato_node.domain.state import Event, Json, Stm, Vector, flattened
from kato_node.domain.vectors import symbol_of

FORMAT = "kato-patterns"
VERSION = 1
IMPORTS_MAX = 64  # that a pattern remembers

_VECTOR_SYMBOLS_MAX = 101  # of one event: its own vector's, and its neighbours'
_HEADER = frozenset({"format", "version", "export_id", "processor_id", "patterns", "dimension", "created_at", "note"})
_LINE = frozenset({"name", "pattern_data", "frequency", "emotives", "metadata", "vectors"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A pattern as an import brings it, and the vectors whose symbols it contains."""

    pattern: Pattern
    vectors: tuple[Vector, ...]


def header(
    *, export_id: str, processor_id: str, patterns: int, dimension: int | None, created_at: str
) -> Mapping[str, Json]:
    """Return the first line of an export, as JSON.

    Args:
        export_id: unique, so that no two exports are one import.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "export_id": export_id,
        "processor_id": processor_id,
        "patterns": patterns,
        "dimension": dimension,
        "created_at": created_at,
    }


def line(pattern: Pattern, vectors: Sequence[Vector]) -> Mapping[str, Json]:
    """Return a pattern's line of an export, as JSON.

    Args:
        vectors: the learned ones whose symbols it contains and that no earlier line had.
    """
    return {
        "name": display_name(pattern.name),
        "pattern_data": pattern.events,
        "frequency": pattern.frequency,
        "emotives": pattern.emotives,
        "metadata": pattern.metadata,
        "vectors": vectors,
    }


def announced(fields: object) -> int:
    """Return the number of patterns that a header announces. Raises: ValidationFailed.

    Only `format`, `version` and `patterns` say something to an import; `note` is for people.
    """
    check = Check(LIMITS)
    given = _object(check, fields, _HEADER)
    if given.get("format") != FORMAT:
        check.reject("format", f"must be {FORMAT!r}: the first line of an import is an export's header")
    if given.get("version") != VERSION or isinstance(given.get("version"), bool):
        check.reject("version", f"must be {VERSION}, the version that this node reads")
    count = given.get("patterns")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        check.reject("patterns", "must be the number of lines that follow")
        count = 0
    _require_none(check)
    return count


def validated_record(fields: object, *, limits: Limits = LIMITS) -> Record:
    """Return the pattern of a line, of anything that JSON decodes to.

    Raises: ValidationFailed; also for a name that is not that of the events, and a vector of which they know nothing.
    """
    check = Check(limits)
    given = _object(check, fields, _LINE)
    events = _events(check, given.get("pattern_data"), limits)
    vectors = _vectors(check, given.get("vectors", ()), limits)
    name = check.text("name", given.get("name"))
    pattern = Pattern(
        name=bare_name(name),
        events=events,
        frequency=checked_frequency(check, given.get("frequency")),
        emotives=checked_window(check, given.get("emotives", ())),
        metadata=checked_metadata(check, given.get("metadata", {})),
    )
    _require_none(check)
    symbols = flattened(events)
    if len(symbols) < SYMBOLS_MIN:
        check.reject("pattern_data", f"must have {SYMBOLS_MIN} symbols or more")
    elif pattern.name != pattern_name(events):
        check.reject("name", f"must be {display_name(pattern_name(events))}, the name of this pattern_data")
    elif not set(map(symbol_of, vectors)) <= set(symbols):
        check.reject("vectors", "has a vector whose symbol is not in pattern_data")
    _require_none(check)
    return Record(pattern=pattern, vectors=vectors)


def imported_into(
    ltm: LtmReader, record: Record, *, import_id: str, persistence: int, limits: Limits = LIMITS
) -> LtmChange:
    """Return what an import's line changes of this LTM: nothing, if that import has brought the pattern already.

    A pattern that the LTM has is merged as if it had been learned that often more: frequencies add up, of both windows
    of emotives the newest `persistence` stay, metadata is united. Any other comes in exactly as it is.
    Raises: ValidationFailed, VectorDimensionMismatch, MemoryTooLarge.
    """
    known = ltm.get(record.pattern.name)
    if known is None:
        return added(ltm, replace(record.pattern, imports=(import_id,)), record.vectors, limits=limits)
    if import_id in known.imports:
        return UNCHANGED
    frequency = known.frequency + record.pattern.frequency
    if frequency > FREQUENCY_MAX:
        raise ValidationFailed([("frequency", f"would be {frequency}, more than {FREQUENCY_MAX}")])
    merged = replace(
        known,
        frequency=frequency,
        emotives=(*known.emotives, *record.pattern.emotives)[-persistence:],
        metadata=with_texts(known.metadata, record.pattern.metadata),
        imports=(*known.imports, import_id)[-IMPORTS_MAX:],
    )
    return added(ltm, merged, record.vectors, limits=limits)


def _object(check: Check, fields: object, names: Collection[str]) -> Mapping[str, object]:
    if not isinstance(fields, Mapping):
        check.reject("line", "must be a JSON object")
        _require_none(check)
        return {}
    for name in fields.keys() - names:
        check.reject(name, "unknown field")
    return fields


def _events(check: Check, value: object, limits: Limits) -> Stm:
    events = check.sequence("pattern_data", value)
    if len(events) > limits.stm_events_max:
        check.reject("pattern_data", f"has {len(events)} events, more than {limits.stm_events_max}")
        return ()
    return tuple(_event(check, f"pattern_data.{index}", event, limits) for index, event in enumerate(events))


def _event(check: Check, name: str, value: object, limits: Limits) -> Event:
    symbols = check.sequence(name, value)
    if not 1 <= len(symbols) <= limits.symbols_per_event_max + _VECTOR_SYMBOLS_MAX:
        check.reject(name, f"must have 1 to {limits.symbols_per_event_max} symbols and a vector's")
        return ()
    return tuple(check.symbol(f"{name}.{index}", symbol) for index, symbol in enumerate(symbols))


def _vectors(check: Check, value: object, limits: Limits) -> tuple[Vector, ...]:
    """Return the vectors. Learned ones are sums, which may be beyond the bounds of what is observed."""
    vectors = [check.sequence(f"vectors.{index}", item) for index, item in enumerate(check.sequence("vectors", value))]
    for index, vector in enumerate(vectors):
        if not 1 <= len(vector) <= limits.vector_length_max or not all(map(_is_finite, vector)):
            check.reject(f"vectors.{index}", f"must be 1 to {limits.vector_length_max} finite numbers")
            return ()
    return tuple(tuple(float(value) + 0.0 for value in vector) for vector in vectors)  # type: ignore[arg-type]


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _require_none(check: Check) -> None:
    if check.errors:
        raise ValidationFailed(check.errors)

"""What is stored, and how: values to documents and back, and the difference that one commit writes.

Every store uses this codec. A session is a head (JSON) and five tracks of rows (number -> JSON), to which an operation
adds at the end and from which it drops at the front, so that a commit writes what is new and not the whole session:

    track       row number                  row
    EVENTS      the event's time            ["symbol", …]
    EMOTIVES    their observation's time    {"name": value, …}
    METADATA    their observation's time    any JSON object
    VECTORS     0, 1, …                     [value, …]
    OPERATIONS  the operation's number      {"key", "hash", "reply"}, a long reply as "zlib" (base64) instead

What users name freely stands inside JSON text, so no database sees odd keys. Heads and patterns carry SCHEMA_VERSION.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import is_
from typing import cast

from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import LtmChange
from kato_node.domain.state import Emotives, Metadata, Percept, SessionState, Vector
from kato_node.store.base import Operation, SessionRecord, SessionWrite, StoreUnavailable, kept_in_memory

SCHEMA_VERSION = 1


class Track(IntEnum):
    """The parts of a session that grow with use; the values are stored."""

    EVENTS = 0
    EMOTIVES = 1
    METADATA = 2
    VECTORS = 3
    OPERATIONS = 4


Row = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackDelta:
    """What one commit changes of one track: rows go, then rows come.

    Attributes:
        below: rows numbered less than this are deleted.
        above: rows numbered more than this are deleted.
        rows: (number, JSON text) of new rows, ascending.
    """

    track: Track
    below: int | None
    above: int | None
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDelta:
    """What one commit changes of one session.

    Attributes:
        replaced: whatever is stored of the session is deleted first.
        head: the new head; None: it stays, or there is none any more.
    """

    session_id: str
    replaced: bool
    head: str | None
    tracks: tuple[TrackDelta, ...]


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def session_delta(write: SessionWrite) -> SessionDelta:
    """Return what must be written to get from `write.before` to `write.after`.

    It is right for any two records, and small when `after` grew out of `before`: rows are kept where both records hold
    the very same object (equality is not enough: 1, 1.0 and True are equal, and stored differently).
    """
    before, after = write.before, write.after
    if after is None:
        return SessionDelta(session_id=write.session_id, replaced=True, head=None, tracks=())
    tracks = (_track_delta(track, before, after) for track in Track)
    return SessionDelta(
        session_id=write.session_id,
        replaced=before is None,
        head=None if before is not None and _same_head(before, after) else _head(after),
        tracks=tuple(delta for delta in tracks if delta is not None),
    )


def session_record(session_id: str, head: str, rows: Mapping[Track, Sequence[Row]]) -> SessionRecord:
    """Return the record that these documents hold; the rows of each track ascending.

    Raises: StoreUnavailable for documents of another schema version, or damaged ones.
    """
    try:
        return _session_record(session_id, head, rows)
    except (LookupError, TypeError, ValueError) as error:
        raise _damaged(f"session {session_id!r}") from error


def _session_record(session_id: str, head: str, rows: Mapping[Track, Sequence[Row]]) -> SessionRecord:
    document = _versioned(json.loads(head), f"session {session_id!r}")
    events = rows.get(Track.EVENTS, ())
    state = SessionState(
        stm=tuple(tuple(json.loads(text)) for _, text in events),
        event_times=tuple(time for time, _ in events),
        time=cast("int", document["time"]),
        emotives=tuple((time, json.loads(text)) for time, text in rows.get(Track.EMOTIVES, ())),
        metadata=tuple((time, json.loads(text)) for time, text in rows.get(Track.METADATA, ())),
        percept=_percept_from(document["percept"]),
        vectors=tuple(tuple(json.loads(text)) for _, text in rows.get(Track.VECTORS, ())),
    )
    return SessionRecord(
        session_id=session_id,
        incarnation=cast("str", document["incarnation"]),
        state=state,
        overrides=tuple(cast("dict[str, object]", document["overrides"]).items()),
        operations=tuple(kept_in_memory(_operation(*row)) for row in rows.get(Track.OPERATIONS, ())),
    )


def operation_reply(row: str) -> str:
    """Return the whole reply that a row of OPERATIONS holds."""
    document = json.loads(row)
    return _reply(document)


def pattern_document(pattern: Pattern) -> dict[str, object]:
    """Return the pattern's document, its name left out: that is its key. Only what was imported has `imports`."""
    document: dict[str, object] = {
        "v": SCHEMA_VERSION,
        "events": pattern.events,
        "frequency": pattern.frequency,
        "emotives": pattern.emotives,
        "metadata": pattern.metadata,
    }
    return document | {"imports": pattern.imports} if pattern.imports else document


def pattern_text(pattern: Pattern) -> str:
    """Return the pattern's document as JSON."""
    return _encode(pattern_document(pattern))


def pattern_from(name: str, document: Mapping[str, object]) -> Pattern:
    """Return the pattern of that name and document.

    Raises: StoreUnavailable for a document of another schema version, or a damaged one.
    """
    try:
        _versioned(document, f"pattern {name!r}")
        return Pattern(
            name=name,
            events=tuple(map(tuple, cast("list[list[str]]", document["events"]))),
            frequency=cast("int", document["frequency"]),
            emotives=tuple(cast("list[Emotives]", document["emotives"])),
            metadata={key: tuple(texts) for key, texts in cast("dict[str, list[str]]", document["metadata"]).items()},
            imports=tuple(map(sys.intern, cast("list[str]", document.get("imports", ())))),
        )
    except (AttributeError, LookupError, TypeError) as error:
        raise _damaged(f"pattern {name!r}") from error


def pattern_from_text(name: str, text: str) -> Pattern:
    """Return the pattern of that name and document in JSON. Raises: as `pattern_from`."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _damaged(f"pattern {name!r}") from error
    return pattern_from(name, document)


def vector_bytes(vector: Vector) -> bytes:
    """Return the vector's values as little-endian float64."""
    return struct.pack(f"<{len(vector)}d", *vector)


def vector_from(data: bytes) -> Vector:
    """Return the vector that these bytes hold."""
    return struct.unpack(f"<{len(data) // 8}d", data)


def folded(changes: Sequence[LtmChange]) -> LtmChange:
    """Return the one change that leaves a store as these leave it, one after the other; each document once."""
    cleared = dimensionless = False
    put: dict[str, Pattern] = {}
    deleted: dict[str, None] = {}
    forgotten: dict[str, None] = {}
    vectors: dict[str, Vector] = {}
    dimension: int | None = None
    for change in changes:
        if change.cleared:
            cleared, dimension = True, None
            put.clear()
            deleted.clear()
            forgotten.clear()
            vectors.clear()
        for pattern in change.put:
            put[pattern.name] = pattern
            deleted.pop(pattern.name, None)
        for name in change.deleted:
            put.pop(name, None)
            deleted[name] = None
        for symbol in change.forgotten:
            vectors.pop(symbol, None)
            forgotten[symbol] = None
        if change.dimensionless:
            dimensionless, dimension = True, None
        for symbol, vector in change.vectors:
            vectors[symbol] = vector
            forgotten.pop(symbol, None)
        dimension = dimension if change.dimension is None else change.dimension
    return LtmChange(
        cleared=cleared,
        put=tuple(put.values()),
        deleted=tuple(deleted),
        forgotten=tuple(forgotten),
        dimensionless=dimensionless,
        vectors=tuple(vectors.items()),
        dimension=dimension,
    )


def _versioned(document: Mapping[str, object], what: str) -> Mapping[str, object]:
    if document["v"] != SCHEMA_VERSION:
        raise StoreUnavailable(
            f"The stored {what} has schema version {document['v']}; this node reads {SCHEMA_VERSION}: "
            "run the version that wrote it."
        )
    return document


def _damaged(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"The stored {what} is damaged; restore it from a backup.")


def _same_head(before: SessionRecord, after: SessionRecord) -> bool:
    return (
        before.state.percept is after.state.percept
        and before.state.time == after.state.time
        and before.overrides is after.overrides
        and before.incarnation == after.incarnation
    )


def _head(record: SessionRecord) -> str:
    return _encode(
        {
            "v": SCHEMA_VERSION,
            "incarnation": record.incarnation,
            "time": record.state.time,
            "percept": None if record.state.percept is None else record.state.percept.as_dict(),
            "overrides": dict(record.overrides),
        }
    )


def _percept_from(document: object) -> Percept | None:
    if document is None:
        return None
    fields = cast("dict[str, object]", document)
    return Percept(
        strings=tuple(cast("list[str]", fields["strings"])),
        vectors=tuple(tuple(vector) for vector in cast("list[list[float]]", fields["vectors"])),
        emotives=cast("Emotives", fields["emotives"]),
        metadata=cast("Metadata", fields["metadata"]),
    )


def _values(record: SessionRecord, track: Track) -> Sequence[object]:
    """Return the objects that a track's rows hold."""
    match track:
        case Track.EVENTS:
            return record.state.stm
        case Track.EMOTIVES:
            return record.state.emotives
        case Track.METADATA:
            return record.state.metadata
        case Track.VECTORS:
            return record.state.vectors
        case Track.OPERATIONS:
            return record.operations


def _numbers(record: SessionRecord, track: Track) -> tuple[int, ...]:
    """Return the row numbers, strictly ascending, parallel to `_values`."""
    match track:
        case Track.EVENTS:
            return record.state.event_times
        case Track.EMOTIVES:
            return tuple(time for time, _ in record.state.emotives)
        case Track.METADATA:
            return tuple(time for time, _ in record.state.metadata)
        case Track.VECTORS:
            return tuple(range(len(record.state.vectors)))
        case Track.OPERATIONS:
            return tuple(operation.number for operation in record.operations)


def _track_delta(track: Track, before: SessionRecord | None, after: SessionRecord) -> TrackDelta | None:
    old, new = () if before is None else _values(before, track), _values(after, track)
    if old is new and track is not Track.EVENTS:  # cheap, and the rule: an operation leaves most tracks alone
        return None
    old_numbers, new_numbers = () if before is None else _numbers(before, track), _numbers(after, track)
    first = bisect_left(old_numbers, new_numbers[0]) if new else len(old)
    kept = _kept(old_numbers[first:], old[first:], new_numbers, new)
    if kept == len(old) == len(new):
        return None
    return TrackDelta(
        track=track,
        below=old_numbers[first] if kept and first else None,
        above=_above(old_numbers, first, kept),
        rows=tuple((number, _row(track, value)) for number, value in zip(new_numbers[kept:], new[kept:], strict=True)),
    )


def _above(old_numbers: Sequence[int], first: int, kept: int) -> int | None:
    """Return the number above which old rows go: with none kept, all of them do."""
    if not kept:
        return -1 if old_numbers else None
    return old_numbers[first + kept - 1] if first + kept < len(old_numbers) else None


def _kept(old_numbers: Sequence[int], old: Sequence[object], new_numbers: Sequence[int], new: Sequence[object]) -> int:
    """Return how many rows the tracks have in common from the start of both."""
    common = min(len(old), len(new))
    if old_numbers[:common] == new_numbers[:common] and all(map(is_, old[:common], new)):
        return common
    pairs = zip(old_numbers, new_numbers, old, new, strict=False)
    return next(i for i, (was, number, a, b) in enumerate(pairs) if was != number or a is not b)


def _row(track: Track, value: object) -> str:
    match track:
        case Track.EMOTIVES | Track.METADATA:
            return _encode(cast("tuple[int, object]", value)[1])
        case Track.OPERATIONS:
            return _operation_row(cast("Operation", value))
        case _:
            return _encode(value)


def _operation_row(operation: Operation) -> str:
    reply = operation.reply
    assert reply is not None, "an operation is written with its reply, and never again"
    document = {"key": operation.key, "hash": operation.body_hash}
    if kept_in_memory(operation) is operation:
        return _encode(document | {"reply": reply})
    return _encode(document | {"zlib": base64.b64encode(zlib.compress(reply.encode(), level=1)).decode()})


def _operation(number: int, row: str) -> Operation:
    document = json.loads(row)
    return Operation(number=number, key=document["key"], body_hash=document["hash"], reply=document.get("reply"))


def _reply(document: Mapping[str, str]) -> str:
    if "reply" in document:
        return document["reply"]
    return zlib.decompress(base64.b64decode(document["zlib"])).decode()

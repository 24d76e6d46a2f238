"""What MongoDB keeps of a node: the documents, their ids, and a batch as the writes of one transaction.

    processors    _id = processor                      {epoch, commits, ltm, dimension, writer}
    sessions      _id = processor/session              {serial, head}
    session_rows  _id = processor/serial/track/number  {text}: a row; the number padded, so that it sorts
    patterns      _id = processor/serial/name          {text}
    vectors       _id = processor/serial/symbol        {data}: little-endian float64
    garbage       _id = processor/serial               {collections}

Each document has the schema's version, `v`. No id holds a "/", so all that belongs to one processor, serial or track is
one range of _id; no other index is needed. Texts are the JSON of documents.py.

A serial names documents that end together: the rows of a session from its first commit to its end, or an LTM from one
clear-all to the next (`ltm`). It is made of the commit's number, and never used again. To end any number of documents a
transaction only forgets their serial and notes it as garbage: from then on nobody looks for them, and they are deleted
little by little, by any node, whenever.
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import DeleteMany, DeleteOne, ReplaceOne

from kato_node.domain.ltm import LtmChange
from kato_node.store import documents
from kato_node.store.base import Batch, StoreUnavailable
from kato_node.store.documents import SessionDelta, TrackDelta

Document = dict[str, Any]
Text = str | bytes
Write = ReplaceOne[Document] | DeleteOne | DeleteMany

SCHEMA_VERSION = 1  # of the documents around the texts, which have their own
FIRST_SERIAL = "0"
COLLECTIONS = ("processors", "sessions", "session_rows", "patterns", "vectors", "garbage")
LTM_COLLECTIONS = ("patterns", "vectors")

# A document has 16 MiB at most. JSON may take 6 bytes for 1 that a limit counts; compressed, little more than 1.
PLAIN_CHARACTERS_MAX = 1024 * 1024
_NUMBER_DIGITS = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One batch, whatever takes long worked out before the transaction begins.

    Attributes:
        sessions: each session once: it has one turn at a time.
        rows: each track's new rows, parallel to the tracks of each session.
        heads: parallel to the sessions.
        processor: what changes of the processor's own document.
    """

    processor_id: str
    sessions: Sequence[SessionDelta]
    rows: Sequence[Sequence[Sequence[tuple[int, Text]]]]
    heads: Sequence[Text | None]
    ltm: LtmChange
    patterns: Sequence[tuple[str, Text]]
    processor: Mapping[str, object]

    def sessions_of_unknown_serial(self, known: Container[str]) -> list[str]:
        """Return the ids of the sessions whose serial must be looked up: those that end, and the unknown."""
        return [one.session_id for one in self.sessions if one.replaced or one.session_id not in known]


@dataclass(slots=True)
class Writes:
    """The writes of one transaction after its fence.

    Attributes:
        by_collection: deletions before what is put in their place.
        serials: of every session of the batch as it is afterwards; None: it has ended.
        ltm: the serial of the LTM afterwards.
    """

    by_collection: dict[str, list[Write]]
    serials: dict[str, str | None]
    ltm: str

    @property
    def litter(self) -> bool:
        """Whether there is something to be swept up afterwards."""
        return bool(self.by_collection["garbage"])


def planned(processor_id: str, batch: Batch) -> Planned:
    """Return the batch as what is to be written."""
    deltas = [documents.session_delta(write) for write in batch.sessions]
    assert len({delta.session_id for delta in deltas}) == len(deltas), "a session has one turn at a time"
    ltm = documents.folded(batch.ltm)
    known = ltm.cleared or ltm.dimensionless or ltm.dimension is not None
    return Planned(
        processor_id=processor_id,
        sessions=deltas,
        rows=[[[(number, packed(text)) for number, text in track.rows] for track in delta.tracks] for delta in deltas],
        heads=[None if delta.head is None else packed(delta.head) for delta in deltas],
        ltm=ltm,
        patterns=[(pattern.name, packed(documents.pattern_text(pattern))) for pattern in ltm.put],
        processor={"dimension": ltm.dimension} if known else {},
    )


def writes(plan: Planned, *, commit: int, ltm: str, serials: Mapping[str, str]) -> Writes:
    """Return the writes of the plan.

    Args:
        commit: the number of this commit, from which new serials are made.
        ltm: the LTM's serial.
        serials: of the sessions that are stored, at least those of the plan.
    """
    found = Writes(by_collection={name: [] for name in COLLECTIONS[1:]}, serials={}, ltm=ltm)
    if plan.ltm.cleared:
        _discard(found, plan.processor_id, ltm, LTM_COLLECTIONS)
        found.ltm = f"{commit}"
    _add_deletions(found, plan, commit, serials)
    _add_sessions(found, plan)
    _add_ltm(found.by_collection, f"{plan.processor_id}/{found.ltm}", plan)
    return found


def under(path: str) -> dict[str, str]:
    """Return the range of every _id below the path."""
    return {"$gt": f"{path}/", "$lt": f"{path}0"}  # "0" is what follows "/"


def row_id(path: str, number: int) -> str:
    """Return the _id of a row of the track with that path."""
    return f"{path}/{number:0{_NUMBER_DIGITS}d}"


def packed(text: str) -> Text:
    """Return the text as it is stored: a long one compressed."""
    if len(text) <= PLAIN_CHARACTERS_MAX:
        return text
    return zlib.compress(text.encode(), level=1)


def unpacked(stored: Text) -> str:
    """Return the text that is stored so. Raises: StoreUnavailable if it is damaged."""
    if isinstance(stored, str):
        return stored
    try:
        return zlib.decompress(stored).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise StoreUnavailable("A stored document is damaged; restore it from a backup.") from error


def checked(document: Document) -> Document:
    """Return the document. Raises: StoreUnavailable if its schema is another than ours."""
    if document.get("v") != SCHEMA_VERSION:
        raise StoreUnavailable(
            f"The stored {document['_id']!r} has schema version {document.get('v')}; this node knows {SCHEMA_VERSION}: "
            "run the version that wrote it."
        )
    return document


def _discard(found: Writes, processor_id: str, serial: str, collections: Sequence[str]) -> None:
    """Note that whatever these collections hold under the serial is garbage."""
    document = {"v": SCHEMA_VERSION, "collections": list(collections)}
    found.by_collection["garbage"].append(_put(f"{processor_id}/{serial}", document))


def _add_deletions(found: Writes, plan: Planned, commit: int, serials: Mapping[str, str]) -> None:
    """Add what goes of the sessions, and decide under which serial each of them goes on."""
    for index, delta in enumerate(plan.sessions):
        serial = serials.get(delta.session_id)
        if delta.replaced and serial is not None:
            _discard(found, plan.processor_id, serial, ("session_rows",))
        if delta.head is None and delta.replaced:
            found.by_collection["sessions"].append(DeleteOne({"_id": f"{plan.processor_id}/{delta.session_id}"}))
            found.serials[delta.session_id] = None
            continue
        if delta.replaced or serial is None:
            serial = f"{commit}.{index}"
        found.serials[delta.session_id] = serial
        for track in delta.tracks:
            _add_dropped(found.by_collection["session_rows"], f"{plan.processor_id}/{serial}/{track.track:d}", track)


def _add_dropped(rows: list[Write], path: str, track: TrackDelta) -> None:
    if track.below is not None:
        rows.append(DeleteMany({"_id": {**under(path), "$lt": row_id(path, track.below)}}))
    if track.above is not None:
        rows.append(DeleteMany({"_id": {**under(path), "$gt": row_id(path, track.above)}}))


def _add_sessions(found: Writes, plan: Planned) -> None:
    for delta, head, tracks in zip(plan.sessions, plan.heads, plan.rows, strict=True):
        serial = found.serials[delta.session_id]
        if head is not None:
            document = {"v": SCHEMA_VERSION, "serial": serial, "head": head}
            found.by_collection["sessions"].append(_put(f"{plan.processor_id}/{delta.session_id}", document))
        for track, rows in zip(delta.tracks, tracks, strict=True):
            path = f"{plan.processor_id}/{serial}/{track.track:d}"
            found.by_collection["session_rows"].extend(
                _put(row_id(path, number), {"v": SCHEMA_VERSION, "text": text}) for number, text in rows
            )


def _add_ltm(by_collection: Mapping[str, list[Write]], path: str, plan: Planned) -> None:
    patterns, vectors = (by_collection[name] for name in LTM_COLLECTIONS)
    patterns.extend(DeleteOne({"_id": f"{path}/{name}"}) for name in plan.ltm.deleted)
    vectors.extend(DeleteOne({"_id": f"{path}/{symbol}"}) for symbol in plan.ltm.forgotten)
    patterns.extend(_put(f"{path}/{name}", {"v": SCHEMA_VERSION, "text": text}) for name, text in plan.patterns)
    vectors.extend(
        _put(f"{path}/{symbol}", {"v": SCHEMA_VERSION, "data": documents.vector_bytes(vector)})
        for symbol, vector in plan.ltm.vectors
    )


def _put(key: str, document: Document) -> ReplaceOne[Document]:
    return ReplaceOne({"_id": key}, document, upsert=True)

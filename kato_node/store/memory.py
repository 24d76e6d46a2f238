"""A store that forgets at exit: the fake for tests, with a knob for each way in which a real one fails.

It keeps the same documents as the others, so that what a test stores has been through the codec.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import LtmChange
from kato_node.domain.state import Vector
from kato_node.store import documents
from kato_node.store.base import Batch, Fenced, ProcessorRecord, SessionRecord, StoreError, StoreUnavailable
from kato_node.store.documents import SessionDelta, Track, TrackDelta


@dataclass(slots=True)
class StoredSession:
    """The documents of one session."""

    head: str = ""
    tracks: dict[Track, dict[int, str]] = field(default_factory=lambda: {track: {} for track in Track})


@dataclass(slots=True)
class StoredProcessor:
    """The documents of one processor."""

    epoch: int = 0
    dimension: int | None = None
    sessions: dict[str, StoredSession] = field(default_factory=dict)
    patterns: dict[str, str] = field(default_factory=dict)
    vectors: dict[str, bytes] = field(default_factory=dict)


class MemoryDisk:
    """What outlives its stores, and the knobs.

    Attributes:
        unavailable: while True, every call raises StoreUnavailable.
        gate: while it is cleared, every call waits.
        commits: every batch that was written, in order.
    """

    def __init__(self) -> None:
        self.unavailable = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.commits: list[Batch] = []
        self._failures: list[tuple[StoreError, bool]] = []
        self._processors: dict[str, StoredProcessor] = {}

    def fail_next_commit(self, error: StoreError, *, written: bool = False) -> None:
        """Let one more commit raise this: instead of writing, or afterwards (`written`: a lost acknowledgement)."""
        self._failures.append((error, written))

    def take_over(self, processor_id: str) -> None:
        """Take the epoch, as another node does that binds the processor."""
        self.processor(processor_id).epoch += 1

    def processor(self, processor_id: str) -> StoredProcessor:
        """Return what is stored of the processor."""
        return self._processors.setdefault(processor_id, StoredProcessor())

    def write(self, processor_id: str, batch: Batch, *, epoch: int) -> None:
        """Write the batch, or nothing. Raises: as Store.commit."""
        deltas = [documents.session_delta(write) for write in batch.sessions]
        ltm = documents.folded(batch.ltm)
        failure, written = self._failures.pop(0) if self._failures else (None, True)
        if failure is not None and not written:
            raise failure
        stored = self.processor(processor_id)
        if stored.epoch != epoch or not epoch:
            raise Fenced(f"Another node has taken this processor: epoch {stored.epoch} follows {epoch}.")
        for delta in deltas:
            _write_session(stored, delta)
        _write_ltm(stored, ltm)
        self.commits.append(batch)
        if failure is not None:
            raise failure


class MemoryStore:
    """The Store protocol on a MemoryDisk; see there for each method."""

    def __init__(self, disk: MemoryDisk, processor_id: str) -> None:
        self._disk = disk
        self._processor_id = processor_id
        self._open = False

    async def open(self) -> None:
        """See Store."""
        self._open = True
        await self._reached()

    async def close(self) -> None:
        """See Store."""
        self._open = False

    async def bind(self) -> ProcessorRecord:
        """See Store."""
        stored = await self._reached()
        stored.epoch += 1
        return ProcessorRecord(processor_id=self._processor_id, epoch=stored.epoch, dimension=stored.dimension)

    async def read_epoch(self) -> int:
        """See Store."""
        return (await self._reached()).epoch

    async def load_patterns(self) -> AsyncIterator[Pattern]:
        """See Store."""
        for name, text in list((await self._reached()).patterns.items()):
            yield documents.pattern_from_text(name, text)

    async def load_vectors(self) -> AsyncIterator[tuple[str, Vector]]:
        """See Store."""
        for symbol, data in list((await self._reached()).vectors.items()):
            yield symbol, documents.vector_from(data)

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """See Store."""
        session = (await self._reached()).sessions.get(session_id)
        if session is None:
            return None
        rows = {track: sorted(numbered.items()) for track, numbered in session.tracks.items()}
        return documents.session_record(session_id, session.head, rows)

    async def load_reply(self, session_id: str, number: int) -> str | None:
        """See Store."""
        session = (await self._reached()).sessions.get(session_id)
        row = None if session is None else session.tracks[Track.OPERATIONS].get(number)
        return None if row is None else documents.operation_reply(row)

    async def session_ids(self) -> Sequence[str]:
        """See Store."""
        return sorted((await self._reached()).sessions)

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        await self._reached()
        self._disk.write(self._processor_id, batch, epoch=epoch)

    async def _reached(self) -> StoredProcessor:
        await asyncio.sleep(0)  # as with any real store, others run meanwhile
        await self._disk.gate.wait()
        if self._disk.unavailable or not self._open:
            raise StoreUnavailable("The store is out of reach; try again.")
        return self._disk.processor(self._processor_id)


def _write_session(stored: StoredProcessor, delta: SessionDelta) -> None:
    if delta.replaced:
        stored.sessions.pop(delta.session_id, None)
        if delta.head is None:
            return
    session = stored.sessions.setdefault(delta.session_id, StoredSession())
    session.head = session.head if delta.head is None else delta.head
    for track in delta.tracks:
        session.tracks[track.track] = _track_after(session.tracks[track.track], track)


def _track_after(rows: dict[int, str], delta: TrackDelta) -> dict[int, str]:
    def stays(number: int) -> bool:
        return (delta.below is None or number >= delta.below) and (delta.above is None or number <= delta.above)

    return {number: text for number, text in rows.items() if stays(number)} | dict(delta.rows)


def _write_ltm(stored: StoredProcessor, change: LtmChange) -> None:
    if change.cleared:
        stored.patterns.clear()
        stored.vectors.clear()
        stored.dimension = None
    stored.patterns.update((pattern.name, documents.pattern_text(pattern)) for pattern in change.put)
    for name in change.deleted:
        stored.patterns.pop(name, None)
    for symbol in change.forgotten:
        stored.vectors.pop(symbol, None)
    if change.dimensionless:
        stored.dimension = None
    stored.vectors.update((symbol, documents.vector_bytes(vector)) for symbol, vector in change.vectors)
    if change.dimension is not None:
        stored.dimension = change.dimension

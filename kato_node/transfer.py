"""Export and import of a processor: everything as of one version of the LTM out; batches through the writer in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

from kato_node.domain import transfer
from kato_node.domain.config import Config
from kato_node.domain.errors import DomainError
from kato_node.domain.limits import Limits
from kato_node.domain.ltm import UNCHANGED, Ltm, LtmChange, LtmReader
from kato_node.domain.state import Json, Vector
from kato_node.domain.survey import listing
from kato_node.domain.transfer import Record
from kato_node.ownership import Ownership
from kato_node.predictor import Predictor
from kato_node.sessions import Sessions
from kato_node.store.base import SessionRecord, StoreUnavailable
from kato_node.turns import Step, Turns
from kato_node.writer import Edit, Writer

Line = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A processor as of one moment: a header, and its patterns by name, made as they are asked for."""

    header: Line
    lines: Iterator[Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a batch of an import did; `skipped` are the patterns that the same import had brought before."""

    imported: int
    skipped: int


class BadRecord(DomainError):
    """One record of a batch cannot be merged, so that none of the batch was; code and message say why.

    Attributes:
        position: of the record in the batch. error: why.
    """

    def __init__(self, position: int, error: DomainError) -> None:
        super().__init__(error.message, error.details)
        self.code = error.code
        self.position = position
        self.error = error


class ProcessorTransfer:
    """Takes a processor's memory out, and puts others' in."""

    def __init__(
        self,
        *,
        processor_id: str,
        limits: Limits,
        ltm: Ltm,
        sessions: Sessions,
        turns: Turns,
        writer: Writer,
        ownership: Ownership,
        predictor: Predictor,
    ) -> None:
        self._processor_id = processor_id
        self._limits = limits
        self._ltm = ltm
        self._sessions = sessions
        self._turns = turns
        self._writer = writer
        self._ownership = ownership
        self._predictor = predictor

    async def export(self) -> Export:
        """Return all that was learned. Raises: StoreUnavailable (an old copy is no backup), Fenced."""
        await self._writer.settled()
        if await self._ownership.degraded():
            raise StoreUnavailable("The store is out of reach, and what is in memory may be behind it.")
        view, vectors, dimension = self._ltm.view(), dict(self._ltm.vectors), self._ltm.dimension
        patterns = await self._predictor.worked_out(partial(listing, view))
        header = transfer.header(
            export_id=uuid4().hex,
            processor_id=self._processor_id,
            patterns=len(patterns),
            dimension=dimension,
            created_at=datetime.now(UTC).isoformat(),
        )
        return Export(header=header, lines=(transfer.line(item, _taken(item.events, vectors)) for item in patterns))

    def meant(self, session_id: str | None) -> str:
        """Return the id of the session that a call means. Raises: SessionNotFound."""
        return self._sessions.get(session_id).session_id

    async def merge(self, session_id: str, records: Sequence[Record], *, import_id: str) -> Merged:
        """Merge the records into the LTM in the session's turn, all of them or none; each once for each import.

        Raises: BadRecord, and what any mutating call may.
        """
        skipped: list[int] = []
        await self._turns.mutate(session_id, None, partial(self._merge, records, import_id, skipped))
        return Merged(imported=len(records) - len(skipped), skipped=len(skipped))

    async def _merge(
        self, records: Sequence[Record], import_id: str, skipped: list[int], record: SessionRecord, config: Config
    ) -> Step:
        def edit(position: int) -> Edit:
            def decide(ltm: LtmReader) -> LtmChange:
                try:
                    change = transfer.imported_into(
                        ltm,
                        records[position],
                        import_id=import_id,
                        persistence=config.persistence,
                        limits=self._limits,
                    )
                except DomainError as error:
                    raise BadRecord(position, error) from error
                if change is UNCHANGED:
                    skipped.append(position)
                return change

            return decide

        return Step(state=record.state, reply={}, edits=[edit(position) for position in range(len(records))])


def _taken(events: Sequence[Sequence[str]], vectors: dict[str, Vector]) -> list[Vector]:
    """Return the vectors whose symbols are in the events, and take them away: each is exported once."""
    symbols = (symbol for event in events for symbol in event)
    found = (vectors.pop(symbol, None) for symbol in symbols)
    return [vector for vector in found if vector is not None]

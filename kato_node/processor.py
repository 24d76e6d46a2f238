"""A processor that this node has taken: its memory and what serves it, put together and taken apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kato_node.domain.config import Config
from kato_node.domain.limits import Limits
from kato_node.domain.ltm import CLEARED, Ltm
from kato_node.ownership import Ownership
from kato_node.patterns import ProcessorPatterns
from kato_node.predictor import Predictor
from kato_node.reads import ProcessorReads
from kato_node.service import ProcessorService
from kato_node.sessions import DEFAULT_SESSION, Sessions
from kato_node.store.base import Store
from kato_node.transfer import ProcessorTransfer
from kato_node.turns import Turns
from kato_node.writer import Writer, stored_ltm


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a processor is served with.

    Attributes:
        own_session: see Sessions.
        started_s: when the node started, by `clock_s`.
        lost: called once, when a newer owner has taken the processor.
    """

    processor_name: str
    own_session: str | None
    defaults: Config
    limits: Limits
    started_s: float
    clock_s: Callable[[], float]
    lost: Callable[[], None]


class Processor:
    """A bound processor, being served."""

    def __init__(
        self,
        *,
        service: ProcessorService,
        reads: ProcessorReads,
        patterns: ProcessorPatterns,
        transfer: ProcessorTransfer,
        sessions: Sessions,
        turns: Turns,
        predictor: Predictor,
        store: Store,
        writer: Writer,
        ownership: Ownership,
    ) -> None:
        self.service = service
        self.reads = reads
        self.patterns = patterns
        self.transfer = transfer
        self._sessions = sessions
        self._turns = turns
        self._predictor = predictor
        self._store = store
        self._tasks = [asyncio.create_task(writer.run()), asyncio.create_task(ownership.watch())]

    async def purge(self) -> None:
        """Delete every session and every pattern. Idempotent: broken off, it can be made again.

        Raises: as Writer.commit.
        """
        await asyncio.gather(*(self.service.close_session(name, incarnation=None) for name in self._sessions.ids))
        session = self._sessions.opening(DEFAULT_SESSION)
        await self._turns.run(session, partial(self._turns.commit, session, None, edits=(lambda _ltm: CLEARED,)))

    async def vouch(self) -> None:
        """Make sure that the processor is still ours. Raises: Fenced."""
        await self._turns.vouch()

    async def finish(self) -> None:
        """Take no more calls, and wait for those that run."""
        await self._turns.close()

    async def stop(self) -> None:
        """Finish the calls that run, then let go of everything."""
        await self.finish()
        await _ended(self._tasks)
        self._predictor.close()
        await self._store.close()


async def take(store: Store, setup: Setup) -> Processor:
    """Take the processor that the opened store keeps: its epoch first, then all that is stored.

    Raises: StoreUnavailable.
    """
    record = await store.bind()
    ownership = Ownership(store, epoch=record.epoch, lost=setup.lost, clock_s=setup.clock_s)
    ltm = Ltm()
    async for change in stored_ltm(store):
        ltm.apply(change)
    writer = Writer(store, ltm, ownership)
    sessions = Sessions(
        store, writer, stored=await store.session_ids(), defaults=setup.defaults, own_session=setup.own_session
    )
    turns = Turns(store, sessions, writer, ownership)
    predictor = Predictor()
    service = ProcessorService(
        processor_id=record.processor_id,
        epoch=record.epoch,
        defaults=setup.defaults,
        limits=setup.limits,
        ltm=ltm,
        sessions=sessions,
        turns=turns,
        predictor=predictor,
    )
    reads = ProcessorReads(
        processor_id=record.processor_id,
        processor_name=setup.processor_name,
        ltm=ltm,
        sessions=sessions,
        writer=writer,
        ownership=ownership,
        predictor=predictor,
        counters=turns.counters,
        started_s=setup.started_s,
    )
    memory = _Memory(ltm=ltm, turns=turns, writer=writer, ownership=ownership, predictor=predictor)
    return Processor(
        service=service,
        reads=reads,
        patterns=memory.patterns(record.processor_id, setup.limits),
        transfer=memory.transfer(record.processor_id, setup.limits, sessions),
        sessions=sessions,
        turns=turns,
        predictor=predictor,
        store=store,
        writer=writer,
        ownership=ownership,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """What the operations on the memory as a whole work with."""

    ltm: Ltm
    turns: Turns
    writer: Writer
    ownership: Ownership
    predictor: Predictor

    def patterns(self, processor_id: str, limits: Limits) -> ProcessorPatterns:
        return ProcessorPatterns(
            processor_id=processor_id,
            limits=limits,
            ltm=self.ltm,
            turns=self.turns,
            writer=self.writer,
            ownership=self.ownership,
            predictor=self.predictor,
        )

    def transfer(self, processor_id: str, limits: Limits, sessions: Sessions) -> ProcessorTransfer:
        return ProcessorTransfer(
            processor_id=processor_id,
            limits=limits,
            ltm=self.ltm,
            sessions=sessions,
            turns=self.turns,
            writer=self.writer,
            ownership=self.ownership,
            predictor=self.predictor,
        )


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

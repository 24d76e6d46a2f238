"""A simulated node's store: the memory store, with what can go wrong before, at and after each commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from kato_node.domain.learn import Pattern
from kato_node.domain.state import Vector
from kato_node.store.base import Batch, CommitUnknown, ProcessorRecord, SessionRecord, StoreUnavailable
from kato_node.store.memory import MemoryDisk, MemoryStore
from tests.chaos.sim.process import Process


@dataclass(slots=True)
class Troubles:
    """What goes wrong with the storage of one processor.

    Attributes:
        at_commit: the crash points of the next commits: before-commit, after-commit, lost-commit-reply (written),
            failed-commit (not written), late-commit (written when nobody looks any more); or what is to happen before.
        delay_s: of every commit.
        is_cut_off: nobody reaches it.
        is_full: nothing can be written.
        late: commits that are still on their way.
    """

    at_commit: list[str | Callable[[Process], None]] = field(default_factory=list)
    delay_s: float = 0.0
    is_cut_off: bool = False
    is_full: bool = False
    late: list[Callable[[], None]] = field(default_factory=list)

    def land(self) -> None:
        """Have what is on its way arrive: the store begins nothing new before."""
        late, self.late = self.late, []
        for write in late:
            write()


class SimStore:
    """The Store protocol for one simulated process; see there for each method."""

    def __init__(self, disk: MemoryDisk, processor_id: str, troubles: Troubles, process: Process) -> None:
        self._disk = disk
        self._inner = MemoryStore(disk, processor_id)
        self._processor_id = processor_id
        self._troubles = troubles
        self._process = process

    async def open(self) -> None:
        """See Store."""
        await self._reached()
        await self._inner.open()

    async def close(self) -> None:
        """See Store."""
        await self._inner.close()

    async def bind(self) -> ProcessorRecord:
        """See Store."""
        await self._reached()
        self._troubles.land()
        record = await self._inner.bind()
        await asyncio.sleep(0)
        return record

    async def read_epoch(self) -> int:
        """See Store."""
        await self._reached()
        return await self._inner.read_epoch()

    async def load_patterns(self) -> AsyncIterator[Pattern]:
        """See Store."""
        await self._reached()
        async for pattern in self._inner.load_patterns():
            yield pattern

    async def load_vectors(self) -> AsyncIterator[tuple[str, Vector]]:
        """See Store."""
        await self._reached()
        async for vector in self._inner.load_vectors():
            yield vector

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """See Store."""
        await self._reached()
        return await self._inner.load_session(session_id)

    async def load_reply(self, session_id: str, number: int) -> str | None:
        """See Store."""
        await self._reached()
        return await self._inner.load_reply(session_id, number)

    async def session_ids(self) -> Sequence[str]:
        """See Store."""
        await self._reached()
        return await self._inner.session_ids()

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        troubles = self._troubles
        point = troubles.at_commit.pop(0) if batch.sessions and troubles.at_commit else ""
        if callable(point):
            point(self._process)
        if point == "before-commit":
            self._process.kill()
        await asyncio.sleep(troubles.delay_s)
        await self._reached()
        troubles.land()
        if troubles.is_full:
            raise StoreUnavailable("No space is left.")
        if point == "failed-commit":
            raise CommitUnknown("No answer came.")
        if point == "late-commit":
            self._be_late(batch, epoch)
            raise CommitUnknown("No answer came.")
        await self._inner.commit(batch, epoch=epoch)
        if point == "after-commit":
            self._process.kill()
        await asyncio.sleep(0)
        if point == "lost-commit-reply":
            raise CommitUnknown("No answer came.")

    def _be_late(self, batch: Batch, epoch: int) -> None:
        def write() -> None:
            if self._disk.processor(self._processor_id).epoch == epoch:
                self._disk.write(self._processor_id, batch, epoch=epoch)

        self._troubles.late.append(write)
        asyncio.get_running_loop().call_later(1.0, self._troubles.land)

    async def _reached(self) -> None:
        await asyncio.sleep(0)
        if self._troubles.is_cut_off:
            raise StoreUnavailable("The store is out of reach.")

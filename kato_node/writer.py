"""The one writer of a node: changes that wait go into one transaction, and into memory once the store has them.

What becomes of the LTM is decided here, one change after the other, each seeing those before it in the same batch.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import UNCHANGED, Ltm, LtmChange, LtmReader, Staged, pattern_bytes
from kato_node.domain.state import event_bytes
from kato_node.ownership import Ownership
from kato_node.store.base import Batch, CommitUnknown, Fenced, SessionWrite, Store, StoreUnavailable

log = logging.getLogger(__name__)

Edit = Callable[[LtmReader], LtmChange]

_NOTHING = Batch(sessions=(), ltm=())
_PART_PATTERNS = 1_000  # that enter the LTM at once

# Of one transaction, which is closed once it holds as much: a store writes some MiB in a second, and has five seconds.
BATCH_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one call wants written: all of it or nothing.

    Attributes:
        session: makes the session's write, once the edits are decided: a reply that it remembers may tell of them.
        edits: what becomes of the LTM, each decided against the LTM as it is by then. A DomainError of one of them
            rejects this change, and no other of the batch.
        apply: brings the session's memory to what is now stored; runs in the same breath as the LTM's changes.
    """

    session: Callable[[], SessionWrite]
    edits: Sequence[Edit] = ()
    apply: Callable[[], None]


@dataclass(slots=True)
class _Waiting:
    change: Change
    done: asyncio.Future[None]
    ltm: Sequence[LtmChange] = ()
    session: SessionWrite | None = None


class Writer:
    """Groups changes, commits them, and brings memory up to the store.

    After a commit of unknown outcome it settles first: an empty commit, behind which nothing is on its way any more,
    then the LTM is loaded again if that commit was to change it.
    """

    def __init__(self, store: Store, ltm: Ltm, ownership: Ownership) -> None:
        self._store = store
        self._ltm = ltm
        self._ownership = ownership
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._settling = asyncio.Lock()
        self._in_doubt = False
        self._ltm_in_doubt = False

    async def commit(self, change: Change) -> None:
        """Return once the change is stored and in memory.

        Raises: DomainError or StoreUnavailable (nothing written), Fenced (likewise), CommitUnknown (either).
        """
        self._ownership.require()
        waiting = _Waiting(change=change, done=asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        await waiting.done

    async def settled(self) -> None:
        """Return once the outcome of every commit so far is known, and the LTM in memory is the store's.

        Raises: Fenced, StoreUnavailable.
        """
        if not self._in_doubt:
            return
        async with self._settling:
            if self._in_doubt:
                try:
                    await self._settle()
                except (StoreUnavailable, Fenced):
                    raise
                except Exception as error:
                    log.exception("settling_failed")
                    raise StoreUnavailable("What is stored could not be read; see the node's log.") from error

    async def run(self) -> None:
        """Write until cancelled. Changes that are being written then have an unknown outcome."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch: Sequence[_Waiting] = self._waiting
            self._waiting = []
            try:
                while batch:
                    batch = await self._write(batch)
            except BaseException:
                _fail(batch, CommitUnknown("The node stopped while it wrote this; repeat the call with the same key."))
                raise

    async def _write(self, batch: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """Write what one transaction has room for; return the rest, of which nothing is decided yet."""
        try:
            await self.settled()
        except (StoreUnavailable, Fenced) as error:
            _fail(batch, error)
            return ()
        accepted, rest = self._accepted(batch)
        if accepted:
            await self._commit(accepted)
        return rest

    async def _commit(self, accepted: Sequence[_Waiting]) -> None:
        started_s = self._ownership.now_s()
        try:
            await self._store.commit(_batch(accepted), epoch=self._ownership.epoch)
            self._apply(accepted)
        except StoreUnavailable as error:
            _fail(accepted, error)
        except Fenced as error:
            self._ownership.fenced(error)
            _fail(accepted, error)
        except BaseException as error:
            self._doubt(accepted, error)
            if not isinstance(error, Exception):
                raise
        else:
            self._ownership.confirm(started_s)

    def _accepted(self, batch: Sequence[_Waiting]) -> tuple[list[_Waiting], Sequence[_Waiting]]:
        """Decide what each change does to the LTM; return those that nothing speaks against, and those without room."""
        staged = Staged(self._ltm)
        accepted: list[_Waiting] = []
        size = 0
        for position, waiting in enumerate(batch):
            if size >= BATCH_BYTES_MAX:
                return accepted, batch[position:]
            try:
                waiting.ltm = _decided(staged, waiting.change.edits)
                waiting.session = waiting.change.session()
            except Exception as error:  # noqa: BLE001 - it belongs to this change's caller
                _fail((waiting,), error)
            else:
                for change in waiting.ltm:
                    staged.apply(change)
                accepted.append(waiting)
                size += _new_bytes(waiting)
        return accepted, ()

    def _apply(self, accepted: Sequence[_Waiting]) -> None:
        """Bring memory to what is now stored. Nothing here waits, so nobody sees half of it."""
        for waiting in accepted:
            for change in waiting.ltm:
                self._ltm.apply(change)
            waiting.change.apply()
        for waiting in accepted:
            if not waiting.done.done():
                waiting.done.set_result(None)

    def _doubt(self, accepted: Sequence[_Waiting], error: BaseException) -> None:
        log.error("commit_unknown", exc_info=error)
        self._in_doubt = True
        self._ltm_in_doubt |= any(waiting.ltm for waiting in accepted)
        unknown = CommitUnknown("The store did not confirm the write; repeat the call with the same key.")
        unknown.__cause__ = error
        _fail(accepted, unknown)

    async def _settle(self) -> None:
        try:
            await self._store.commit(_NOTHING, epoch=self._ownership.epoch)
        except Fenced as error:
            self._ownership.fenced(error)
            raise
        except CommitUnknown as error:
            raise StoreUnavailable(error.message) from error
        if self._ltm_in_doubt:
            changes = [change async for change in stored_ltm(self._store)]
            for change in (LtmChange(cleared=True), *changes):
                self._ltm.apply(change)
        self._in_doubt = self._ltm_in_doubt = False


async def stored_ltm(store: Store) -> AsyncIterator[LtmChange]:
    """Yield what fills an empty LTM with all that is stored, in parts. Raises: StoreUnavailable."""
    patterns: list[Pattern] = []
    async for pattern in store.load_patterns():
        patterns.append(pattern)
        if len(patterns) == _PART_PATTERNS:
            yield LtmChange(put=tuple(patterns))
            patterns = []
    yield LtmChange(put=tuple(patterns))
    async for symbol, vector in store.load_vectors():
        yield LtmChange(vectors=((symbol, vector),), dimension=len(vector))


def _decided(staged: Staged, edits: Sequence[Edit]) -> Sequence[LtmChange]:
    """Return what the edits change on top of the batch so far, each seeing those before it."""
    if not edits:
        return ()
    own = Staged(staged)
    changes = []
    for edit in edits:
        change = edit(own)
        if change != UNCHANGED:
            own.apply(change)
            changes.append(change)
    return changes


def _batch(accepted: Sequence[_Waiting]) -> Batch:
    return Batch(
        sessions=[waiting.session for waiting in accepted if waiting.session is not None],
        ltm=[change for waiting in accepted for change in waiting.ltm],
    )


def _new_bytes(waiting: _Waiting) -> int:
    """Return about how much the change has a store write: what is new of its session, and patterns as a whole."""
    patterns = sum(pattern_bytes(pattern) for change in waiting.ltm for pattern in change.put)
    if waiting.session is None or waiting.session.after is None:
        return patterns
    before, after = waiting.session.before, waiting.session.after
    time, known_bytes = (-1, 0) if before is None else (before.state.time, before.state.carried_bytes)
    events = after.state.stm[bisect_right(after.state.event_times, time) :]
    carried = max(0, after.state.carried_bytes - known_bytes)
    reply = after.operations[-1].reply if after.operations else None
    return patterns + sum(map(event_bytes, events)) + carried + len(reply or "")


def _fail(waiting: Sequence[_Waiting], error: Exception) -> None:
    for one in waiting:
        if not one.done.done():
            one.done.set_exception(error)

"""What stands between a node and its store: a deadline for every call, and a circuit breaker.

A store that refuses at once does no harm, and is asked each time. One that lets its callers wait is not asked by each
of them: after a call that got no answer, or waited long for a bad one, calls are refused without asking, but for one
now and then that finds out whether the store is back. Reads and commits are judged apart, since one may work without
the other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TypeVar

from kato_node.domain.learn import Pattern
from kato_node.store.base import (
    Batch,
    CommitUnknown,
    ProcessorRecord,
    SessionRecord,
    Store,
    StoreError,
    StoreUnavailable,
    StoreUnreachable,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

# Longer than the stores' own limits, which tell what is the matter: 5 s for a lock, 5 s for a server.
CALL_MAX_S = 10.0
COMMIT_MAX_S = 15.0  # which may be tried again by the store itself
EPOCH_MAX_S = 2.0  # for a reading of the epoch, which an answer to a read waits for
CLOSE_MAX_S = 0.5
SLOW_S = 1.0  # what fails sooner is no reason to stop asking
PAUSE_MIN_S = 0.25
PAUSE_MAX_S = 4.0
_PART_ROWS = 100


class Circuit:
    """Whether calls of one kind are let through.

    Args:
        clock_s: monotonic seconds.
        chance: uniform in [0, 1); spreads the tries of many nodes.
    """

    def __init__(self, name: str, *, clock_s: Callable[[], float], chance: Callable[[], float]) -> None:
        self._name = name
        self._clock_s = clock_s
        self._chance = chance
        self._failures = 0
        self._failed_s = clock_s()
        self._retry_s = 0.0
        self._trying = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Let one call through, and learn from how it ends. Raises: StoreUnavailable in its place."""
        began_s = self._clock_s()
        if self._failures and (self._trying or began_s < self._retry_s):
            raise _refusal(self._retry_s - began_s)
        self._trying = bool(self._failures)
        try:
            yield
        except TimeoutError:
            self._failed(began_s)
            raise
        except StoreError:
            if self._clock_s() - began_s >= SLOW_S:
                self._failed(began_s)
            raise
        else:
            self._failures = 0
        finally:
            self._trying = False

    def _failed(self, began_s: float) -> None:
        now_s = self._clock_s()
        if began_s < self._failed_s:
            return  # one of several that waited together
        self._failures += 1
        self._failed_s = now_s
        pause_s = min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** min(self._failures - 1, 16))
        self._retry_s = now_s + pause_s * (0.5 + self._chance() / 2)
        log.warning("store_silent", extra={"calls": self._name, "failures": self._failures})


class GuardedStore:
    """The Store protocol on another store; see there for each method.

    Every call may raise StoreUnavailable because the store did not answer in time, or is not asked just now; a commit
    that was not answered in time raises CommitUnknown.
    """

    def __init__(
        self, store: Store, *, clock_s: Callable[[], float], chance: Callable[[], float] = random.random
    ) -> None:
        self._store = store
        self._reading = Circuit("reads", clock_s=clock_s, chance=chance)
        self._writing = Circuit("commits", clock_s=clock_s, chance=chance)
        self._waits: set[asyncio.Timeout] = set()
        self._given_up = False

    def give_up(self) -> bool:
        """End the calls that wait for an answer, and refuse those to come; whether there was one that waited."""
        self._given_up = True
        waiting = [wait for wait in self._waits if not wait.expired()]
        for wait in waiting:
            wait.reschedule(asyncio.get_running_loop().time())
        return bool(waiting)

    async def open(self) -> None:
        """See Store."""
        async with self._answer(CALL_MAX_S, None):
            await self._store.open()

    async def close(self) -> None:
        """See Store. What hangs is left behind."""
        try:
            async with asyncio.timeout(CLOSE_MAX_S):
                await self._store.close()
        except TimeoutError:
            log.warning("store_left_open", extra={"after_s": CLOSE_MAX_S})

    async def bind(self) -> ProcessorRecord:
        """See Store."""
        async with self._answer(CALL_MAX_S, None):
            return await self._store.bind()

    async def read_epoch(self) -> int:
        """See Store."""
        async with self._answer(EPOCH_MAX_S, self._reading):
            return await self._store.read_epoch()

    async def load_patterns(self) -> AsyncIterator[Pattern]:
        """See Store."""
        async for pattern in self._each(self._store.load_patterns()):
            yield pattern

    async def load_vectors(self) -> AsyncIterator[tuple[str, tuple[float, ...]]]:
        """See Store."""
        async for vector in self._each(self._store.load_vectors()):
            yield vector

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """See Store."""
        async with self._answer(CALL_MAX_S, self._reading):
            return await self._store.load_session(session_id)

    async def load_reply(self, session_id: str, number: int) -> str | None:
        """See Store."""
        async with self._answer(CALL_MAX_S, self._reading):
            return await self._store.load_reply(session_id, number)

    async def session_ids(self) -> Sequence[str]:
        """See Store."""
        async with self._answer(CALL_MAX_S, self._reading):
            return await self._store.session_ids()

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        try:
            async with self._answer(COMMIT_MAX_S, self._writing):
                await self._store.commit(batch, epoch=epoch)
        except _Unanswered as error:
            raise CommitUnknown("The store did not answer the commit in time.") from error

    async def _each(self, rows: AsyncIterator[T]) -> AsyncIterator[T]:
        while True:
            async with self._answer(CALL_MAX_S, self._reading):
                part = await _part(rows)
            for row in part:
                yield row
            if len(part) < _PART_ROWS:
                return

    @asynccontextmanager
    async def _answer(self, within_s: float, circuit: Circuit | None) -> AsyncIterator[None]:
        """Wait for the store in the block. Raises: StoreUnavailable if it is not asked, _Unanswered."""
        if self._given_up:
            raise StoreUnavailable("This node is stopping.")
        try:
            with nullcontext() if circuit is None else circuit.call():
                async with asyncio.timeout(within_s) as wait:
                    self._waits.add(wait)
                    try:
                        yield
                    finally:
                        self._waits.discard(wait)
        except TimeoutError as error:
            raise _Unanswered("The store did not answer in time.") from error


class _Unanswered(StoreUnreachable):
    """The store was asked, and no answer came."""


async def _part(rows: AsyncIterator[T]) -> list[T]:
    """Return the next rows, at most _PART_ROWS; none at the end."""
    part = []
    async for row in rows:
        part.append(row)
        if len(part) == _PART_ROWS:
            break
    return part


def _refusal(wait_s: float) -> StoreUnavailable:
    refusal = StoreUnreachable("The store does not answer; it is asked again soon.")
    refusal.retry_after_s = max(refusal.retry_after_s, wait_s)
    return refusal

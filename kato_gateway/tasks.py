"""Work that outlives the call that began it: every task has an owner, and one at a time does what many wait for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from kato_gateway.clock import Clock
from kato_gateway.domain.errors import GatewayError, GatewayStopping

T = TypeVar("T")
_log = logging.getLogger(__name__)


async def all_of(work: Iterable[Awaitable[T]]) -> list[T]:
    """Return what each returns, once all have ended. Raises: the first error among them."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


class Tasks:
    """Owns tasks: holds them while they run, says what they failed of, ends them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()

    def spawn(self, name: str, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run the coroutine as a task of its own."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def supervise(
        self, name: str, work: Callable[[], Coroutine[object, object, None]], clock: Clock, pause_s: float
    ) -> None:
        """Run `work` again and again, `pause_s` after each of its ends, however it ended."""
        self.spawn(name, self._again_and_again(name, work, clock, pause_s))

    async def outlive(
        self, name: str, work: Coroutine[object, object, T], *, may_end: Callable[[], bool] = lambda: False
    ) -> T:
        """Return what the coroutine returns; it goes on when its caller is cancelled. Raises: as `outcome`.

        Args:
            may_end: whether it ends with its caller instead, asked when that leaves.
        """
        task = self.spawn(name, work)
        try:
            return await outcome(task)
        finally:
            if not task.done() and may_end():
                task.cancel()

    async def settled(self) -> None:
        """Wait until nothing runs."""
        while self._running:
            await asyncio.wait(set(self._running))

    def interrupt(self) -> None:
        """Cancel what runs; what it begins in order to clean up goes on."""
        for task in self._running:
            task.cancel()

    async def cancel(self) -> None:
        """End what runs, and whatever that begins while it ends."""
        while self._running:
            self.interrupt()
            await asyncio.wait(set(self._running))

    async def _again_and_again(
        self, name: str, work: Callable[[], Coroutine[object, object, None]], clock: Clock, pause_s: float
    ) -> None:
        while True:
            await asyncio.wait({self.spawn(name, work())})
            await clock.sleep(pause_s)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, GatewayError):
            _log.info("task_failed", extra={"task": task.get_name(), "code": error.code, "reason": error.message})
        elif error is not None:
            _log.error("task_broke", exc_info=error, extra={"task": task.get_name()})


async def outcome(task: asyncio.Task[T]) -> T:
    """Return what a task of ours returns, without ending it by ending ourselves.

    Raises: what the task raises; GatewayStopping if it is ended before its time.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if task.cancelled() and caller is not None and not caller.cancelling():
            raise GatewayStopping from None
        raise


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    callers: int = 0
    is_given_up: bool = False


class Flights(Generic[T]):
    """One task a key: whoever asks while it runs gets its outcome, and no caller's cancellation stops it.

    Args:
        may_end: whether a key's task ends with the last of its callers instead, asked when that one leaves.
    """

    def __init__(self, tasks: Tasks, *, may_end: Callable[[str], bool] = lambda _: False) -> None:
        self._tasks = tasks
        self._may_end = may_end
        self._flying: dict[str, _Flight[T]] = {}

    def flying(self, key: str) -> bool:
        """Whether the key's task runs."""
        return key in self._flying

    def is_given_up(self, key: str) -> bool:
        """Whether the key's task is just ending since all its callers have left."""
        return key in self._flying and self._flying[key].is_given_up

    async def join(self, key: str, begin: Callable[[], Coroutine[object, object, T]]) -> T:
        """Return what the key's task returns, begun now if none runs or once one has been given up.

        Raises: as `outcome`.
        """
        while (flight := self._flying.get(key)) is not None and flight.is_given_up:
            await asyncio.wait({flight.task})
        if flight is None:
            flight = self._flying[key] = _Flight(self._tasks.spawn(key, begin()))
            flight.task.add_done_callback(lambda _: self._flying.pop(key))
        flight.callers += 1
        try:
            return await outcome(flight.task)
        finally:
            flight.callers -= 1
            if not flight.callers and not flight.task.done() and self._may_end(key):
                flight.is_given_up = True
                flight.task.cancel()


class Locks:
    """A lock a key, kept only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Hold the key's lock for the block."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)

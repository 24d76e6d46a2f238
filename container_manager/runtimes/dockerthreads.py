"""A bounded number of threads, each with an engine client of its own, for calls that block.

docker-py's client is not safe to share between threads. A call has a deadline; one that passes it counts as unanswered,
and its thread, which cannot be stopped, is replaced: it ends by itself, since its socket's timeout is the deadline too.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from docker import APIClient

T = TypeVar("T")
Connect = Callable[[float], APIClient]

SETTLE_S = 10.0
_LEAST_TIMEOUT_S = 0.05
_JOIN_S = 2.0


class TimeUp(Exception):
    """There was no answer in time: the call may have been done, may be done later, or never."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    work: Callable[[APIClient], None]
    give_up_at_s: float  # on the monotonic clock
    done: asyncio.Future[None]
    error: BaseException | None = None
    is_given_up: bool = False


class Threads:
    """At most `size` calls at a time; further ones queue, first come, first served. One per event loop.

    Args:
        connect: makes a client whose sockets have this timeout; called in the thread that uses it, and after failures.
    """

    def __init__(self, name: str, size: int, connect: Connect) -> None:
        self._name = name
        self._size = size
        self._connect = connect
        self._free = asyncio.Semaphore(size)
        self._idle: list[_Worker] = []
        self._lost = 0
        self._is_closed = False

    async def call(self, work: Callable[[APIClient], T], *, timeout_s: float, settle: bool = False) -> T:
        """Do the work in a thread.

        Args:
            timeout_s: until the answer, the time in the queue included.
            settle: a cancellation waits (10 s at most) until the call is over, so that the caller may undo it.
        Raises: TimeUp; whatever the work raises.
        """
        loop = asyncio.get_running_loop()
        give_up_at_s = loop.time() + timeout_s  # the loop's clock is the monotonic one
        try:
            async with asyncio.timeout_at(give_up_at_s):
                await self._free.acquire()
        except TimeoutError:
            raise TimeUp from None
        results: list[T] = []
        job = _Job(
            work=lambda client: results.append(work(client)), give_up_at_s=give_up_at_s, done=loop.create_future()
        )
        self._begin(loop, job)
        try:
            await asyncio.shield(job.done)
        except asyncio.CancelledError:
            if settle:
                await asyncio.wait({job.done}, timeout=SETTLE_S)
            raise
        if job.is_given_up:
            raise TimeUp
        if job.error is not None:
            raise job.error
        return results[0]

    async def close(self) -> None:
        """End the threads; a busy one ends when it is back. A later call makes new ones."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()
        if idle:
            await asyncio.to_thread(_join, idle)

    def _begin(self, loop: asyncio.AbstractEventLoop, job: _Job) -> None:
        self._is_closed = False
        worker = self._idle.pop() if self._idle else _Worker(self._name, self._connect)
        timer = loop.call_at(job.give_up_at_s, self._give_up, worker, job)
        worker.take(job, lambda: loop.call_soon_threadsafe(self._returned, worker, job, timer))

    def _returned(self, worker: _Worker, job: _Job, timer: asyncio.TimerHandle) -> None:
        if job.is_given_up:
            self._lost -= 1
            if self._lost >= self._size:
                self._free.release()
            return
        timer.cancel()
        if self._is_closed:
            worker.end()
        else:
            self._idle.append(worker)
        self._free.release()
        job.done.set_result(None)

    def _give_up(self, worker: _Worker, job: _Job) -> None:
        """Replace the thread; but with as many lost already as may work, the next call waits for one to come back."""
        job.is_given_up = True
        worker.end()
        if self._lost < self._size:
            self._free.release()
        self._lost += 1
        job.done.set_result(None)


class _Worker:
    """One thread and its client."""

    def __init__(self, name: str, connect: Connect) -> None:
        self._connect = connect
        self._client: APIClient | None = None
        self._jobs: queue.SimpleQueue[tuple[_Job, Callable[[], object]] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def take(self, job: _Job, report: Callable[[], object]) -> None:
        """Do the job, then report, from the thread."""
        self._jobs.put((job, report))

    def end(self) -> None:
        """End after what is in hand."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (order := self._jobs.get()) is not None:
            job, report = order
            self._do(job)
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
                report()
            del order, job, report
        self._disconnect()

    def _do(self, job: _Job) -> None:
        timeout_s = max(job.give_up_at_s - time.monotonic(), _LEAST_TIMEOUT_S)
        try:
            if self._client is None:
                self._client = self._connect(timeout_s)
            self._client.timeout = timeout_s  # type: ignore[assignment]  # the stubs know whole seconds only
            job.work(self._client)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            job.error = error
            self._disconnect()

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _join(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.thread.join(_JOIN_S)

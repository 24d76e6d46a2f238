"""One thread of our own: for a driver that blocks and wants all its calls from one thread, or for long work.

An executor of one worker does the same with two more locks on the way, and has the interpreter wait for it at exit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class DedicatedThread:
    """Runs calls one after the other, in the order in which they came."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # A daemon: a node that is told to exit does not wait for a disk that hangs, or for what nobody will read.
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, call: Callable[[], T]) -> T:
        """Return what the call returns, or raise what it raises. A cancelled caller does not stop the call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put(lambda: _run(loop, future, call))
        return await future

    def stop(self) -> None:
        """End the thread after what it has to do, without waiting for that; nothing more may be asked of it."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _run(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], call: Callable[[], T]) -> None:
    try:
        settle = partial(_settle, future, call())
    except Exception as error:  # noqa: BLE001 - it belongs to the caller
        settle = partial(_fail, future, error)
    with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
        loop.call_soon_threadsafe(settle)


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.cancelled():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.cancelled():
        future.set_exception(error)

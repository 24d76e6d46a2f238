"""The end of a process that need not be our child, and signals that reach no other: both through a pidfd."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from types import TracebackType


class ProcessEnd:
    """Watches one process: `ended` is done when it has ended. Once entered, the pid can no more be mistaken.

    Whether the pid was the intended process's is for the caller to check, after entering.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._pidfd = -1
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def __enter__(self) -> ProcessEnd:
        try:
            self._pidfd = os.pidfd_open(self._pid)
        except ProcessLookupError:
            self.ended.set_result(None)
        else:
            self._loop.add_reader(self._pidfd, self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        self.ended.cancel()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended. Raises: OSError."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def within(self, timeout_s: float) -> bool:
        """Wait for the end; whether it came in time."""
        await asyncio.wait({self.ended}, timeout=timeout_s)
        return self.ended.done()

    def _end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self.ended.done():
            self.ended.set_result(None)

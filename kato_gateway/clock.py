"""The time, as something that can be handed over."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time and lets it pass."""

    def now_s(self) -> float:
        """Return the time, in seconds since the epoch."""

    async def sleep(self, delay_s: float) -> None:
        """Return `delay_s` seconds later."""


class SystemClock:
    """The machine's own."""

    def now_s(self) -> float:
        """See Clock."""
        return time.time()

    async def sleep(self, delay_s: float) -> None:
        """See Clock."""
        await asyncio.sleep(delay_s)

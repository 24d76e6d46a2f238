"""The time, as something that can be handed over.

Two readings, never compared with each other: the date, which people and NTP may set, for what is recorded and told;
and a count of seconds that only ever goes on, for every duration.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Protocol


class Clock(Protocol):
    """Tells the time and lets it pass."""

    def now_s(self) -> float:
        """Return the date, in seconds since the epoch; it may jump."""

    def monotonic_s(self) -> float:
        """Return seconds since some moment, however the date is set meanwhile."""

    async def sleep(self, delay_s: float) -> None:
        """Return `delay_s` seconds later."""


class SystemClock:
    """The machine's own."""

    def now_s(self) -> float:
        """See Clock."""
        return time.time()

    def monotonic_s(self) -> float:
        """See Clock."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """See Clock."""
        await asyncio.sleep(delay_s)


class Unchanged:
    """For how long each of some things has been seen as it is: an age that no jump of the date can change.

    What was not looked at before counts from its first look, so a new gateway is as patient as an old one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_s: dict[str, tuple[object, float]] = {}

    def for_s(self, key: str, state: object) -> float:
        """Look at the thing: return for how long it has been in this state, in seconds; 0 at the first look."""
        now_s = self._clock.monotonic_s()
        known, since_s = self._since_s.get(key, (state, now_s))
        if known != state:
            since_s = now_s
        self._since_s[key] = state, since_s
        return now_s - since_s

    def keep(self, keys: Collection[str]) -> None:
        """Forget every other thing."""
        self._since_s = {key: known for key, known in self._since_s.items() if key in keys}

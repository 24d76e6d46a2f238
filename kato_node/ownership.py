"""Whether this node still owns its processor: the epoch in the store, re-read now and then (decision 5).

A node may be stopped for any length of time between any two instructions, and another may take its processor meanwhile.
So no answer leaves on the word of a reading that is older than FRESH_S.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kato_node.store.base import Fenced, Store, StoreError

log = logging.getLogger(__name__)

WATCH_S = 2.0
FRESH_S = 5.0


class Ownership:
    """The epoch that a node took, and what it last heard of it.

    Args:
        lost: called once, when a newer owner is seen.
        clock_s: monotonic seconds, which go on while the process is stopped.
    """

    def __init__(self, store: Store, *, epoch: int, lost: Callable[[], None], clock_s: Callable[[], float]) -> None:
        self.epoch = epoch
        self.now_s = clock_s
        self._store = store
        self._lost = lost
        self._fenced: str | None = None
        self._confirmed_s = clock_s()
        self._failed_s: float | None = None
        self._reading = asyncio.Lock()

    def confirm(self, at_s: float) -> None:
        """Note that the epoch was ours at that time or later: a commit has passed the fence, or a reading said so."""
        self._confirmed_s = max(self._confirmed_s, at_s)
        self._failed_s = None

    def fenced(self, error: Fenced) -> None:
        """Note that a newer owner was seen: there is no way back."""
        if self._fenced is None:
            self._fenced = error.message
            self._lost()

    def require(self) -> None:
        """Raises: Fenced, if a newer owner was seen."""
        if self._fenced is not None:
            raise Fenced(self._fenced)

    async def degraded(self) -> bool:
        """Tell, before an answer leaves, whether it may be stale because the store is out of reach.

        Returns at once while the last reading is fresh; else it reads. Raises: Fenced.
        """
        self.require()
        if not self._known():
            async with self._reading:
                if not self._known():  # whoever was before us may have read
                    await self._read()
        return self._failed_s is not None

    async def watch(self) -> None:
        """Read the epoch every WATCH_S, until a newer owner is seen."""
        while self._fenced is None:
            await asyncio.sleep(WATCH_S)
            try:
                async with self._reading:
                    await self._read()
            except Fenced:
                return
            except Exception:  # a dead watch would take the last thing it saw for true for ever
                log.exception("watch_failed")

    def _known(self) -> bool:
        """Whether what was last heard, good or bad, is recent enough to go by."""
        heard_s = self._confirmed_s if self._failed_s is None else self._failed_s
        return self.now_s() - heard_s <= FRESH_S

    async def _read(self) -> None:
        """Read the epoch. Raises: Fenced. A store out of reach is noted, not raised."""
        started_s = self.now_s()
        try:
            epoch = await self._store.read_epoch()
        except StoreError as error:
            log.warning("epoch_unreadable", extra={"reason": repr(error)})
            self._failed_s = self.now_s()
            return
        if epoch != self.epoch:
            self.fenced(Fenced(f"Another node has taken this processor: epoch {epoch} follows {self.epoch}."))
        self.require()
        self.confirm(started_s)

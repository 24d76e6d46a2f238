"""What time does to sessions: their use is written, they expire, they are forgotten; made again and again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from kato_gateway.clock import Unchanged
from kato_gateway.domain.errors import GatewayError
from kato_gateway.domain.policy import is_stuck, plan_expiry
from kato_gateway.domain.sessions import LIVE_STATUSES, EndReason, SessionRecord, SessionStatus, slid
from kato_gateway.ground import Ground
from kato_gateway.registry.base import SessionChange, SessionQuery
from kato_gateway.sessions.activity import Activity
from kato_gateway.sessions.directory import Directory
from kato_gateway.tasks import all_of

_PAGE = 500
_log = logging.getLogger(__name__)


class Upkeep:
    """One round of everything that is due.

    Args:
        end: ends a session as it stands in this record; False if the record has moved on.
        is_opening: whether this gateway is just finding the session a node.
    """

    def __init__(
        self,
        ground: Ground,
        activity: Activity,
        directory: Directory,
        *,
        end: Callable[[SessionRecord, EndReason], Awaitable[bool]],
        is_opening: Callable[[SessionRecord], bool],
    ) -> None:
        self._ground = ground
        self._activity = activity
        self._directory = directory
        self._end = end
        self._is_opening = is_opening
        self._creating = Unchanged(ground.clock)
        self._flush_at_s = ground.clock.monotonic_s()

    async def round(self) -> None:
        """Do all of it once. What fails is done by a later round."""
        now_s = self._ground.clock.monotonic_s()
        try:
            if now_s >= self._flush_at_s:
                self._flush_at_s = now_s + self._ground.policy.flush_interval_s
                await self.flush()
            await self.expire()
            await self.fail_stuck()
            await self.forget()
        except GatewayError as error:
            _log.warning("upkeep_failed", extra={"reason": error.message})

    async def flush(self) -> None:
        """Write when each session was last used. Raises: RegistryUnavailable; then nothing of it is forgotten."""
        taken = self._activity.take()
        written: set[str] = set()
        try:
            await all_of(self._write_use(session_id, at_s, written) for session_id, at_s in taken.items())
        finally:
            self._activity.put_back({key: at_s for key, at_s in taken.items() if key not in written})

    async def expire(self) -> None:
        """End the sessions whose time has come. Raises: RegistryUnavailable."""
        now_s = self._ground.clock.now_s()
        query = SessionQuery(statuses=LIVE_STATUSES, expires_by_s=now_s)
        after = ""
        while due := await self._ground.registry.sessions(query, limit=_PAGE, after=after):
            await self._expire(due, now_s)
            after = due[-1].session_id

    async def fail_stuck(self) -> None:
        """End the sessions whose creation nobody finished. Raises: RegistryUnavailable."""
        query = SessionQuery(statuses=frozenset({SessionStatus.CREATING}))
        creating = await self._ground.registry.sessions(query, limit=_PAGE)
        self._creating.keep({record.session_id for record in creating})
        for record in creating:
            age_s = self._creating.for_s(record.session_id, record.incarnation)
            if is_stuck(age_s, self._ground.policy) and not self._is_opening(record):
                await self._end(record, EndReason.FAILED)

    async def forget(self) -> None:
        """Delete the sessions that ended long ago. Raises: RegistryUnavailable."""
        ended_by_s = self._ground.clock.now_s() - self._ground.policy.ended_kept_s
        records = await self._ground.registry.sessions(SessionQuery(ended_by_s=ended_by_s), limit=_PAGE)
        await all_of(self._ground.registry.apply([SessionChange(before=record, after=None)]) for record in records)

    async def _expire(self, due: Sequence[SessionRecord], now_s: float) -> None:
        uses = {record.session_id: self._activity.last_use_s(record.session_id) for record in due}
        expired = plan_expiry(
            due,
            last_uses_s={key: at_s for key, at_s in uses.items() if at_s is not None},
            in_use={record.session_id for record in due if self._activity.in_use(record.session_id)},
            now_s=now_s,
            slack_s=self._directory.slack_s,
        )
        await all_of(self._end(record, EndReason.EXPIRED) for record in expired)

    async def _write_use(self, session_id: str, at_s: float, written: set[str]) -> None:
        record = await self._ground.registry.session(session_id)
        if record is not None and record.live:
            change = SessionChange(before=record, after=slid(record, at_s=at_s))
            if not await self._ground.registry.apply([change]):
                return
        written.add(session_id)

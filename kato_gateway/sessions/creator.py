"""Creating sessions: recorded, then opened on a node; or found, if the caller has one of this id."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from kato_gateway.domain.errors import Conflict, SessionNotFound
from kato_gateway.domain.owners import meant, permits
from kato_gateway.domain.sessions import EndReason, SessionRecord, new_session
from kato_gateway.events import Event
from kato_gateway.ground import Ground
from kato_gateway.registry.base import SessionChange
from kato_gateway.sessions.creating import Created, CreateSession, Start, check
from kato_gateway.sessions.directory import Directory
from kato_gateway.sessions.opener import Opener

_ROUNDS = 10


class Creator:
    """Creates sessions.

    Args:
        end: ends a session as it stands in this record.
    """

    def __init__(
        self,
        ground: Ground,
        *,
        opener: Opener,
        directory: Directory,
        end: Callable[[SessionRecord, EndReason], Awaitable[bool]],
    ) -> None:
        self._ground = ground
        self._opener = opener
        self._directory = directory
        self._end = end

    async def create(self, wanted: CreateSession) -> Created:
        """See Lifecycle.create. Whoever leaves while it waits for the start of a node to begin leaves nothing."""
        check(wanted)
        session_id = meant(wanted.session_id or secrets.token_hex(16), caller=wanted.owner)
        found: list[SessionRecord] = []
        return await self._ground.tasks.outlive(
            "create",
            self._create(wanted, session_id, found),
            may_end=lambda: bool(found) and self._opener.is_queued(found[-1]),
        )

    async def _create(self, wanted: CreateSession, session_id: str, found: list[SessionRecord]) -> Created:
        """Create; `found` gets the record of the session that is to be opened."""
        clock = self._ground.clock
        began_s = clock.monotonic_s()
        record, created = await self._recorded(wanted, session_id)
        found.append(record)
        try:
            opened = await self._opener.open(session_id, owner=wanted.owner)
        except SessionNotFound:
            if created:
                raise
            return await self._create(wanted, session_id, found)  # the one that was found has gone meanwhile
        start: Start = opened.start
        if not created and start != "shared":
            start = "restored"
        total_ms = 1000 * (clock.monotonic_s() - began_s)
        return Created(
            record=opened.record,
            route=opened.route,
            node=opened.node,
            created=created,
            start=start,
            timings_ms={"claim": 0.0, "spawn": 0.0, "ready": 0.0, "bind": 0.0, **opened.timings_ms, "total": total_ms},
        )

    async def _recorded(self, wanted: CreateSession, session_id: str) -> tuple[SessionRecord, bool]:
        """Return the new session's record, or the caller's live one of this id and False.

        Raises: Conflict, Forbidden.
        """
        user_id = wanted.owner if wanted.user_id is None else wanted.user_id
        policy = self._ground.policy
        for _ in range(_ROUNDS):
            found = await self._ground.registry.session(session_id) if wanted.session_id else None
            if found is not None and found.live:
                if self._directory.is_due(found):
                    await self._end(found, EndReason.EXPIRED)
                    continue
                theirs = not permits(found.owner, caller=wanted.owner) or found.user_id != user_id
                if theirs or wanted.node_id not in {None, found.processor_id}:
                    raise Conflict(f"Session {session_id!r} is somebody else's, or another node_id's; take another id.")
                return found, False
            record = new_session(
                session_id,
                incarnation=secrets.token_hex(8),
                at_s=self._ground.clock.now_s(),
                ttl_s=policy.session_ttl_s if wanted.ttl_seconds is None else wanted.ttl_seconds,
                processor_id=wanted.node_id,
                owner=wanted.owner,
                user_id=user_id,
                sliding=wanted.sliding,
                config=wanted.config,
                metadata=wanted.metadata,
            )
            changes = [SessionChange(before=found, after=record), *await self._directory.owning(record)]
            if await self._ground.registry.apply(changes):
                self._tell(record)
                return record, True
        raise Conflict(f"Session {session_id!r} was changed by others at the same time; try again.")

    def _tell(self, record: SessionRecord) -> None:
        self._ground.events.publish(
            Event(
                kind="session_created",
                at_s=self._ground.clock.now_s(),
                session_id=record.session_id,
                processor_id=record.processor_id,
                owner=record.owner,
            )
        )

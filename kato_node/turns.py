"""How a mutating call runs: as a task of its own, in its session's turn, and committed before memory follows.

The caller only waits for the task. If it is cancelled (a client hung up), the task goes on as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

from kato_node.domain.config import Config
from kato_node.domain.errors import DomainError
from kato_node.domain.state import SessionState, Stm
from kato_node.errors import IdempotencyKeyReused, SessionNotFound, WrongNode
from kato_node.ownership import Ownership
from kato_node.replies import Reply
from kato_node.sessions import Session, Sessions
from kato_node.store.base import Fenced, Operation, SessionRecord, SessionWrite, Store, StoreUnavailable
from kato_node.writer import Change, Edit, Writer

T = TypeVar("T")

OPERATIONS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryKey:
    """Makes a mutating call repeatable: see Operation in store/base.py for both values."""

    key: str
    body_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one call decided, before any of it is true.

    Attributes:
        reply: a function where it tells of what the edits decide: called once they have, before anything is written.
        overrides: the session's own config values from now on; None: as they are.
        checkpoints: (unique_id, the STM that this observation is predicted from), oldest first.
        learned: the names, as shown, of the patterns that the edits learn.
        observations: how many observations were applied.
    """

    state: SessionState
    reply: Reply | Callable[[], Reply]
    overrides: tuple[tuple[str, object], ...] | None = None
    edits: Sequence[Edit] = ()
    checkpoints: Sequence[tuple[str, Stm]] = ()
    learned: Sequence[str] = ()
    observations: int = 0


Decide = Callable[[SessionRecord, Config], Awaitable[Step]]


@dataclass(slots=True)
class Counters:
    """What the node has done since it started."""

    observations_processed: int = 0
    patterns_learned: int = 0
    predictions_generated: int = 0


class Turns:
    """Runs mutating calls."""

    def __init__(self, store: Store, sessions: Sessions, writer: Writer, ownership: Ownership) -> None:
        self.counters = Counters()
        self._store = store
        self._sessions = sessions
        self._writer = writer
        self._ownership = ownership
        self._tasks: set[asyncio.Task[object]] = set()
        self._closed = False

    async def mutate(self, session_id: str | None, retry: RetryKey | None, decide: Decide) -> Reply:
        """Decide in the session's turn, commit, bring memory up to it, and return the reply.

        A call that the session remembers is answered as it was the first time, and applies nothing.
        Raises: what `decide` raises; SessionNotFound, TooManyCalls, IdempotencyKeyReused; as Writer.commit.
        """
        session = self._sessions.get(session_id)
        return await self.run(session, partial(self._mutated, session, session.ended, retry, decide))

    async def run(self, session: Session, work: Callable[[], Coroutine[None, None, T]]) -> T:
        """Do the work in the session's turn, whatever becomes of the caller.

        Raises: WrongNode (the node has ended), TooManyCalls, and what `work` raises.
        """
        if self._closed:
            raise WrongNode("This node has ended; ask the gateway for the session's node.")
        self._sessions.admit(session)
        task = asyncio.get_running_loop().create_task(self._in_turn(session, work))
        self._tasks.add(cast("asyncio.Task[object]", task))
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def commit(self, session: Session, after: SessionRecord | None, *, edits: Sequence[Edit] = ()) -> None:
        """Commit the session's next record, and these edits with it.

        Raises: as Writer.commit. If the outcome is unknown, the session is loaded again before its next turn.
        """
        await self._write(session, lambda: after, edits=edits)

    async def vouch(self) -> None:
        """Make sure, before an answer leaves that no commit stands for, that the processor is ours. Raises: Fenced."""
        await self._ownership.degraded()  # out of reach, what was stored still is

    async def close(self) -> None:
        """Take no more calls, and wait for those that run."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _in_turn(self, session: Session, work: Callable[[], Coroutine[None, None, T]]) -> T:
        try:
            async with session.turn:
                return await work()
        finally:
            self._sessions.release(session)

    async def _mutated(self, session: Session, ended: int, retry: RetryKey | None, decide: Decide) -> Reply:
        record = await self._sessions.record(session)
        if session.ended != ended:  # while the call waited; what has the id now is none of its business
            raise SessionNotFound(session.session_id)
        if retry is not None:
            for operation in record.operations:
                if operation.key == retry.key:
                    return await self._first_reply(session, operation, retry)
        await self._writer.settled()  # else it might be decided on what the store does not have
        step = await decide(record, session.config)
        replies: list[Reply] = []

        def after() -> SessionRecord:
            replies.append(step.reply() if callable(step.reply) else step.reply)
            return _after(record, step, retry, replies[-1])

        await self._write(session, after, edits=step.edits, applied=partial(self._applied, session, step))
        return replies[-1]

    async def _write(
        self,
        session: Session,
        after: Callable[[], SessionRecord | None],
        *,
        edits: Sequence[Edit] = (),
        applied: Callable[[], None] | None = None,
    ) -> None:
        """Commit the record that `after` makes once the edits are decided; `applied` runs as it is assigned."""
        written: list[SessionRecord | None] = []

        def write() -> SessionWrite:
            written.append(after())
            return SessionWrite(session_id=session.session_id, before=session.record, after=written[-1])

        def apply() -> None:
            session.assign(written[-1])
            if applied is not None:
                applied()

        try:
            await self._writer.commit(Change(session=write, edits=edits, apply=apply))
        except (DomainError, StoreUnavailable, Fenced):
            raise  # nothing was written
        except BaseException:
            session.loaded = False
            raise

    async def _first_reply(self, session: Session, operation: Operation, retry: RetryKey) -> Reply:
        if operation.body_hash != retry.body_hash:
            raise IdempotencyKeyReused(retry.key)
        text = operation.reply
        if text is None:
            text = await self._store.load_reply(session.session_id, operation.number)
        assert text is not None, "a remembered operation has its reply"
        await self.vouch()
        return cast("Reply", json.loads(text))

    def _applied(self, session: Session, step: Step) -> None:
        session.remember(step.checkpoints)
        self.counters.observations_processed += step.observations
        self.counters.patterns_learned += len(step.learned)
        for name in step.learned:
            session.tell(name)


def _after(record: SessionRecord, step: Step, retry: RetryKey | None, reply: Reply) -> SessionRecord:
    """Return the session as the step leaves it."""
    return SessionRecord(
        session_id=record.session_id,
        incarnation=record.incarnation,
        state=step.state,
        overrides=record.overrides if step.overrides is None else step.overrides,
        operations=_remembering(record.operations, retry, reply),
    )


def _remembering(operations: tuple[Operation, ...], retry: RetryKey | None, reply: Reply) -> tuple[Operation, ...]:
    """Return the remembered operations with this one, if it has a key; the newest OPERATIONS_MAX."""
    if retry is None:
        return operations
    operation = Operation(
        number=operations[-1].number + 1 if operations else 1,
        key=retry.key,
        body_hash=retry.body_hash,
        reply=json.dumps(reply, ensure_ascii=False, separators=(",", ":")),
    )
    return (*operations, operation)[-OPERATIONS_MAX:]

"""The sessions of one processor in memory: each as last committed, loaded when first asked for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from kato_node.domain.config import Config
from kato_node.domain.state import EMPTY, Stm
from kato_node.errors import NodeOverloaded, SessionNotFound, TooManyCalls, TooManySessions, WrongIncarnation
from kato_node.store.base import SessionRecord, Store, effective, kept_in_memory
from kato_node.writer import Writer

DEFAULT_SESSION = "default"
SESSIONS_MAX = 1_000
UNANSWERED_MAX = 64
NODE_UNANSWERED_MAX = 4_096  # each keeps a body in memory while the store is slow
CHECKPOINTS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A session as its callers see it; `config` is effective, `created` whether this call made it."""

    session_id: str
    config: Config
    created: bool
    stm_length: int
    time: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listener:
    """Who is told of a session, on the event loop: each name that it learns, as shown; and, once, that it has ended."""

    learned: Callable[[str], None]
    ended: Callable[[], None]


class Session:
    """One session in memory. Only its turn, and what runs at the end of its commit, change it.

    Attributes:
        record: as last committed; None: there is no such session (any more, or yet).
        loaded: False while `record` may differ from the store: not read yet, or in doubt after a failed commit.
        config: the effective one.
        turn: held by the call whose turn it is; first come, first served.
        unanswered: the calls that wait for their turn or have it.
        checkpoints: unique_id -> the STM that this observation is predicted from, oldest first.
        ended: how many sessions of this id have ended here: whoever waited for one of them does not mean the next.
        listeners: of the session that there is now.
    """

    def __init__(self, session_id: str, *, defaults: Config, loaded: bool) -> None:
        self.session_id = session_id
        self.record: SessionRecord | None = None
        self.loaded = loaded
        self.config = defaults
        self.turn = asyncio.Lock()
        self.loading = asyncio.Lock()
        self.unanswered = 0
        self.checkpoints: OrderedDict[str, Stm] = OrderedDict()
        self.ended = 0
        self.listeners: list[Listener] = []
        self._defaults = defaults

    @property
    def exists(self) -> bool:
        """Whether there is such a session, as far as is known."""
        return self.record is not None or not self.loaded

    def assign(self, record: SessionRecord | None) -> None:
        """Take over what is now stored. Raises: ValidationFailed for a bad stored config."""
        known = self.record
        if record is None:
            self.config = self._defaults
        elif known is None or record.overrides is not known.overrides:
            self.config = effective(self._defaults, record.overrides)
        if known is not None and (record is None or record.incarnation != known.incarnation):
            self._end()
        self.record = record and _light(record)
        self.loaded = True

    def remember(self, checkpoints: Iterable[tuple[str, Stm]]) -> None:
        """Keep the newest STMs by unique_id; one used again replaces the earlier."""
        for unique_id, stm in checkpoints:
            self.checkpoints.pop(unique_id, None)
            self.checkpoints[unique_id] = stm
        while len(self.checkpoints) > CHECKPOINTS_MAX:
            self.checkpoints.popitem(last=False)

    def tell(self, name: str) -> None:
        """Tell the listeners of a learned name, later: nothing of theirs runs in the middle of a commit."""
        loop = asyncio.get_running_loop()
        for listener in self.listeners:
            loop.call_soon(listener.learned, name)

    def view(self, *, created: bool = False) -> SessionView:
        """Return the session as its callers see it."""
        state = EMPTY if self.record is None else self.record.state
        return SessionView(
            session_id=self.session_id,
            config=self.config,
            created=created,
            stm_length=len(state.stm),
            time=state.time,
        )

    def _end(self) -> None:
        """Let go of what belongs to the session that was here."""
        self.ended += 1
        self.checkpoints.clear()
        loop = asyncio.get_running_loop()
        for listener in self.listeners:
            loop.call_soon(listener.ended)
        self.listeners.clear()


class Sessions:
    """Every session of the processor, by id.

    Args:
        stored: the ids of the sessions in the store.
        own_session: what a call that names no session means; None: the session `default`, made at its first use.
    """

    def __init__(
        self, store: Store, writer: Writer, *, stored: Iterable[str], defaults: Config, own_session: str | None
    ) -> None:
        self.own_session = own_session
        self._store = store
        self._writer = writer
        self._defaults = defaults
        self._sessions = {name: Session(name, defaults=defaults, loaded=False) for name in stored}
        self._unanswered = 0

    @property
    def ids(self) -> Sequence[str]:
        """The ids of all sessions, sorted."""
        return sorted(session.session_id for session in self._sessions.values() if session.exists)

    def find(self, session_id: str) -> Session | None:
        """Return the session of that id, if there is one."""
        return self._sessions.get(session_id)

    def get(self, session_id: str | None) -> Session:
        """Return the session that is meant. Raises: SessionNotFound."""
        name = session_id or self.own_session or DEFAULT_SESSION
        session = self._sessions.get(name)
        if session is not None:
            return session
        if name != DEFAULT_SESSION or self.own_session is not None:
            raise SessionNotFound(name)
        return self._add(name)

    def opening(self, session_id: str) -> Session:
        """Return the session of that id, there already or to be made. Raises: TooManySessions."""
        session = self._sessions.get(session_id)
        if session is not None:
            return session
        if len(self._sessions) >= SESSIONS_MAX:
            raise TooManySessions(SESSIONS_MAX)
        return self._add(session_id)

    async def record(self, session: Session) -> SessionRecord:
        """Return the session as it is in the store; `default` before its first use as an empty one.

        Raises: SessionNotFound; StoreUnavailable or Fenced, if it had to be loaded.
        """
        await self.load(session)
        if session.record is not None:
            return session.record
        if session.session_id != DEFAULT_SESSION or self.own_session is not None:
            raise SessionNotFound(session.session_id)
        return new_record(session.session_id)

    async def meet(self, session_id: str | None, incarnation: str | None) -> str:
        """Return the incarnation of the session that is meant, which is to be this one; None: whichever it is.

        Raises: SessionNotFound, WrongIncarnation; as `record`.
        """
        session = self.get(session_id)
        found = (await self.record(session)).incarnation
        if incarnation not in {None, found}:
            raise WrongIncarnation(session.session_id)
        return found

    async def load(self, session: Session) -> None:
        """Bring the session's memory to what is stored, if it may differ. Raises: StoreUnavailable, Fenced."""
        if session.loaded:
            return
        async with session.loading:
            if not session.loaded:
                await self._writer.settled()  # else what is read now might still change
                session.assign(await self._store.load_session(session.session_id))

    def admit(self, session: Session) -> None:
        """Count one more call that waits for its turn. Raises: TooManyCalls, NodeOverloaded."""
        if session.unanswered >= UNANSWERED_MAX:
            raise TooManyCalls(session.session_id, UNANSWERED_MAX)
        if self._unanswered >= NODE_UNANSWERED_MAX:
            raise NodeOverloaded(NODE_UNANSWERED_MAX)
        session.unanswered += 1
        self._unanswered += 1

    def release(self, session: Session) -> None:
        """Count one call less; forget a session that does not exist and that nobody waits for."""
        session.unanswered -= 1
        self._unanswered -= 1
        if not (session.exists or session.unanswered or session.listeners):
            self._sessions.pop(session.session_id, None)

    def _add(self, session_id: str) -> Session:
        session = Session(session_id, defaults=self._defaults, loaded=True)
        self._sessions[session_id] = session
        return session


def new_record(
    session_id: str, *, incarnation: str = "", overrides: tuple[tuple[str, object], ...] = ()
) -> SessionRecord:
    """Return a session in which nothing has happened yet."""
    return SessionRecord(
        session_id=session_id, incarnation=incarnation, state=EMPTY, overrides=overrides, operations=()
    )


def _light(record: SessionRecord) -> SessionRecord:
    """Return the record without the long replies, which the store keeps. Only the newest operation can have one."""
    operations = record.operations
    if not operations or kept_in_memory(operations[-1]) is operations[-1]:
        return record
    return replace(record, operations=(*operations[:-1], kept_in_memory(operations[-1])))

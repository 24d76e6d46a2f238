"""The operations that change a session or the LTM: what each of them decides. How they run is in turns.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from uuid import uuid4

from kato_node import replies
from kato_node.domain.config import Config
from kato_node.domain.errors import ValidationFailed
from kato_node.domain.learn import Episode, Transition, learn
from kato_node.domain.limits import Limits
from kato_node.domain.ltm import CLEARED, Ltm, LtmReader, learned_into
from kato_node.domain.observation import Observation, validated
from kato_node.domain.observe import clear_stm, observe
from kato_node.domain.state import SessionState
from kato_node.errors import SessionOfGateway
from kato_node.predictor import Predictor
from kato_node.replies import Reply
from kato_node.sequences import Course, SequenceRequest
from kato_node.sessions import Listener, Session, Sessions, SessionView, new_record
from kato_node.store.base import SessionRecord
from kato_node.turns import RetryKey, Step, Turns
from kato_node.writer import Edit

__all__ = ["Listener", "ProcessorService", "Reply", "RetryKey", "SequenceRequest", "SessionView"]

_BREATHER = 64  # observations of a sequence after which other calls have their turn on the event loop


class ProcessorService:
    """The mutating operations of one bound processor (api.md, section 1).

    Every call may raise: SessionNotFound, TooManyCalls, NodeOverloaded, WrongNode (the node has ended), and of the
    store StoreUnavailable (nothing applied), CommitUnknown (applied or not: repeat with the same key), Fenced.
    Any session_id may be None: the processor's own session, or the session `default`, which is made at its first use.
    """

    def __init__(
        self,
        *,
        processor_id: str,
        epoch: int,
        defaults: Config,
        limits: Limits,
        ltm: Ltm,
        sessions: Sessions,
        turns: Turns,
        predictor: Predictor,
    ) -> None:
        self.processor_id = processor_id
        self.epoch = epoch
        self.defaults = defaults
        self.limits = limits
        self._ltm = ltm
        self._sessions = sessions
        self._turns = turns
        self._predictor = predictor

    @property
    def own_session(self) -> str | None:
        """The session that this processor is for; None: it is shared."""
        return self._sessions.own_session

    @property
    def session_ids(self) -> Sequence[str]:
        """The ids of all sessions of the processor, sorted."""
        return self._sessions.ids

    async def open_session(
        self, session_id: str, *, incarnation: str | None, overrides: Mapping[str, object]
    ) -> SessionView:
        """Return the session, made now if it did not exist or was of another incarnation. Idempotent.

        Args:
            incarnation: None: whichever there is; a new one is the node's own, which no gateway keeps.
        Raises: ValidationFailed (overrides), TooManySessions.
        """
        own = _own(self.defaults.updated(overrides), overrides)
        session = self._sessions.opening(session_id)
        after = new_record(session_id, incarnation=incarnation or "", overrides=own)
        return await self._turns.run(session, partial(self._opened, session, after, any_there=incarnation is None))

    async def close_session(self, session_id: str, *, incarnation: str | None) -> None:
        """Delete the session's records, if it is of this incarnation (None: of whichever); patterns stay.

        Idempotent: an unknown session is no error, and its successor of the same id is not touched.
        """
        session = self._sessions.find(session_id)
        if session is None:
            await self._turns.vouch()
        else:
            await self._turns.run(session, partial(self._closed, session, incarnation))

    async def end_own_session(self, session_id: str) -> None:
        """Delete the records of a session that is the node's own. Raises: SessionNotFound, SessionOfGateway."""
        session = self._sessions.get(session_id)
        await self._turns.run(session, partial(self._ended, session))

    async def observe(
        self, session_id: str | None, observation: Observation, *, retry: RetryKey | None = None
    ) -> Reply:
        """Apply one observation.

        Raises: ValidationFailed, VectorDimensionMismatch, MemoryTooLarge, IdempotencyKeyReused.
        """
        valid = validated(observation, limits=self.limits)
        return await self._turns.mutate(session_id, retry, partial(self._observe, valid))

    async def observe_sequence(
        self, session_id: str | None, request: SequenceRequest, *, retry: RetryKey | None = None
    ) -> Reply:
        """Apply all observations or none. Raises: as observe; ValidationFailed names `observations.<index>.<field>`."""
        if len(request.observations) > self.limits.observations_max:
            message = f"has {len(request.observations)} observations, more than {self.limits.observations_max}"
            raise ValidationFailed([("observations", message)])
        return await self._turns.mutate(session_id, retry, partial(self._observe_sequence, request))

    async def learn(self, session_id: str | None, *, retry: RetryKey | None = None) -> Reply:
        """Learn the STM and empty it. Raises: VectorDimensionMismatch, MemoryTooLarge, IdempotencyKeyReused."""
        return await self._turns.mutate(session_id, retry, self._learn)

    async def clear_stm(self, session_id: str | None, *, retry: RetryKey | None = None) -> Reply:
        """Empty the session's state. Raises: IdempotencyKeyReused."""
        return await self._turns.mutate(session_id, retry, self._clear_stm)

    async def clear_all(self, session_id: str | None, *, retry: RetryKey | None = None) -> Reply:
        """Empty the session's state and the LTM. Raises: IdempotencyKeyReused."""
        return await self._turns.mutate(session_id, retry, self._clear_all)

    async def update_genes(
        self, session_id: str | None, genes: Mapping[str, object], *, retry: RetryKey | None = None
    ) -> Reply:
        """Change the session's config, wholly or not at all. Raises: ValidationFailed, IdempotencyKeyReused."""
        return await self._turns.mutate(session_id, retry, partial(self._update_genes, genes))

    def listen(self, session_id: str | None, listener: Listener) -> Callable[[], None]:
        """Tell the listener of the session's learned patterns, each after its commit, and of the session's end.

        Returns: what stops it, at any time. Raises: SessionNotFound.
        """
        listeners = self._sessions.get(session_id).listeners
        listeners.append(listener)
        return lambda: listeners.remove(listener) if listener in listeners else None

    async def _opened(self, session: Session, after: SessionRecord, *, any_there: bool) -> SessionView:
        await self._sessions.load(session)
        known = session.record
        if known is not None and (any_there or known.incarnation == after.incarnation):
            await self._turns.vouch()
            return session.view()
        await self._turns.commit(session, after)
        return session.view(created=True)

    async def _closed(self, session: Session, incarnation: str | None) -> None:
        await self._sessions.load(session)
        if session.record is not None and incarnation in {None, session.record.incarnation}:
            await self._turns.commit(session, None)
        else:
            await self._turns.vouch()

    async def _ended(self, session: Session) -> None:
        if (await self._sessions.record(session)).incarnation:
            raise SessionOfGateway(session.session_id)
        await self._turns.commit(session, None)

    async def _observe(self, observation: Observation, record: SessionRecord, config: Config) -> Step:
        transition = await self._observed(record.state, observation, config, self._ltm)
        unique_id = _unique_id(observation)
        return Step(
            state=transition.state,
            reply=replies.observed(
                transition, unique_id=unique_id, processor_id=self.processor_id, session_id=record.session_id
            ),
            edits=self._edits(transition),
            checkpoints=((unique_id, transition.observed),),
            learned=(transition.learned,) if transition.learned else (),
            observations=1,
        )

    async def _observed(
        self, state: SessionState, observation: Observation, config: Config, ltm: LtmReader
    ) -> Transition:
        neighbors: Sequence[str] = ()
        if observation.vectors and config.vector_neighbors:
            neighbors = await self._predictor.neighbors(observation.vectors, ltm.vectors, config)
        return observe(
            state, observation, config=config, dimension=ltm.dimension, neighbors=neighbors, limits=self.limits
        )

    async def _observe_sequence(self, request: SequenceRequest, record: SessionRecord, config: Config) -> Step:
        course = Course(record.state, self._ltm, limits=self.limits)
        for position, observation in enumerate(request.observations):
            valid = validated(observation, limits=self.limits, prefix=f"observations.{position}.")
            if position and request.clear_stm_between:
                course.state = clear_stm(course.state)
            transition = await self._observed(course.state, valid, config, course.ltm)
            course.observed(transition, unique_id=_unique_id(valid))
            if request.learn_after_each:
                course.learned(learn(course.state, config=config))
            if position % _BREATHER == _BREATHER - 1:
                await asyncio.sleep(0)
        names = list(course.names)
        final = learn(course.state, config=config) if request.learn_at_end else None
        if final is not None:
            course.learned(final)
        return Step(
            state=course.state,
            reply=replies.sequence(
                course.results,
                lengths=(len(record.state.stm), len(course.state.stm)),
                names=names,
                final=None if final is None else final.learned,
                isolated=request.clear_stm_between,
                processor_id=self.processor_id,
                session_id=record.session_id,
            ),
            edits=[self._learning(episode) for episode in course.episodes],
            checkpoints=course.checkpoints,
            learned=course.names,
            observations=len(course.results),
        )

    async def _learn(self, record: SessionRecord, config: Config) -> Step:
        transition = learn(record.state, config=config)
        name = transition.learned or ""
        return Step(
            state=transition.state,
            reply=replies.learned(name, processor_id=self.processor_id, session_id=record.session_id),
            edits=self._edits(transition),
            learned=(name,) if name else (),
        )

    async def _clear_stm(self, record: SessionRecord, _config: Config) -> Step:
        reply = replies.cleared("stm-cleared", processor_id=self.processor_id, session_id=record.session_id)
        return Step(state=clear_stm(record.state), reply=reply)

    async def _clear_all(self, record: SessionRecord, _config: Config) -> Step:
        reply = replies.cleared("all-cleared", processor_id=self.processor_id, session_id=record.session_id)
        return Step(state=clear_stm(record.state), reply=reply, edits=(lambda _ltm: CLEARED,))

    async def _update_genes(self, genes: Mapping[str, object], record: SessionRecord, config: Config) -> Step:
        updated = config.updated(genes)
        overrides = dict(record.overrides) | dict(_own(updated, genes))
        return Step(
            state=record.state,
            overrides=tuple(overrides.items()),
            reply={
                "status": "okay",
                "message": "genes-updated",
                "genes": updated.as_dict(),
                "processor_id": self.processor_id,
                "session_id": record.session_id,
            },
        )

    def _edits(self, transition: Transition) -> Sequence[Edit]:
        return () if transition.episode is None else (self._learning(transition.episode),)

    def _learning(self, episode: Episode) -> Edit:
        return lambda ltm: learned_into(ltm, episode, limits=self.limits)


def _own(config: Config, names: Iterable[str]) -> tuple[tuple[str, object], ...]:
    """Return these values of the config, as it keeps them."""
    return tuple((name, config.get(name)) for name in names)


def _unique_id(observation: Observation) -> str:
    return f"obs-{uuid4().hex}" if observation.unique_id is None else observation.unique_id

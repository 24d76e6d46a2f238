"""What only reads: it never waits for a session's turn, and never answers what a newer owner may have changed."""

from __future__ import annotations

from kato_node import __version__, replies
from kato_node.domain.errors import PatternNotFound
from kato_node.domain.learn import bare_name
from kato_node.domain.ltm import Ltm
from kato_node.domain.state import EMPTY, SessionState, Stm
from kato_node.errors import SessionNotFound
from kato_node.ownership import Ownership
from kato_node.predictor import Predictor
from kato_node.replies import Reply, Shown
from kato_node.sessions import Session, Sessions, SessionView
from kato_node.store.base import StoreUnavailable
from kato_node.turns import Counters
from kato_node.writer import Writer


class ProcessorReads:
    """The reading operations of one bound processor (api.md, section 1).

    Every answer is checked to be the owner's (architecture.md, decision 5): a read may raise Fenced (for one that is
    refused, Node.operation sees to it); with the store out of reach it carries `degraded: true`. Raises also:
    SessionNotFound; StoreUnavailable for a session that is not loaded yet. Callers must not change a reply in place:
    parts of it are remembered.
    """

    def __init__(
        self,
        *,
        processor_id: str,
        processor_name: str,
        ltm: Ltm,
        sessions: Sessions,
        writer: Writer,
        ownership: Ownership,
        predictor: Predictor,
        counters: Counters,
        started_s: float,
    ) -> None:
        self._processor_id = processor_id
        self._processor_name = processor_name
        self._ltm = ltm
        self._sessions = sessions
        self._writer = writer
        self._ownership = ownership
        self._predictor = predictor
        self._counters = counters
        self._started_s = started_s

    async def meet(self, session_id: str | None, incarnation: str | None) -> str:
        """Return the incarnation of the session that is meant, after seeing that it is this one (None: whichever).

        A call that is made without waiting in between is that session's, or is refused: should it end while the call
        waits for its turn, the call is not its successor's. Raises: SessionNotFound, WrongIncarnation.
        """
        return await self._sessions.meet(session_id, incarnation)

    async def session(self, session_id: str | None) -> SessionView:
        """Return the session's effective config and place in time; `created` is False."""
        session, _ = await self._looked_up(session_id)
        await self._ownership.degraded()
        return session.view()

    async def stm(self, session_id: str | None) -> Reply:
        """Return {stm, length, processor_id, session_id}."""
        session, stale = await self._looked_up(session_id)
        stm = _state(session).stm
        return await self._answer({"stm": stm, "length": len(stm)}, session, stale=stale)

    async def predictions(self, session_id: str | None, unique_id: str | None = None) -> Reply:
        """Return {predictions, future_potentials, count, processor_id, session_id}; none for an unknown unique_id."""
        session, stale = await self._looked_up(session_id)
        stm = _state(session).stm if unique_id is None else session.checkpoints.get(unique_id)
        ranking, ltm_stale = await self._ranking(session, stm)
        body: Reply = {
            "predictions": ranking.predictions,
            "future_potentials": ranking.future_potentials,
            "count": len(ranking.predictions),
        }
        return await self._answer(body, session, stale=stale or ltm_stale)

    async def percept_data(self, session_id: str | None) -> Reply:
        """Return {percept_data, processor_id, session_id}; percept_data is {} before the first observation."""
        session, stale = await self._looked_up(session_id)
        return await self._answer({"percept_data": replies.percept_data(_state(session))}, session, stale=stale)

    async def cognition_data(self, session_id: str | None) -> Reply:
        """Return {cognition_data, processor_id, session_id}."""
        session, stale = await self._looked_up(session_id)
        state = _state(session)
        ranking, ltm_stale = await self._ranking(session, state.stm)
        body: Reply = {"cognition_data": replies.cognition_data(state, ranking)}
        return await self._answer(body, session, stale=stale or ltm_stale)

    async def genes(self, session_id: str | None) -> Reply:
        """Return {genes, processor_id, session_id}: the session's effective config."""
        session, stale = await self._looked_up(session_id)
        return await self._answer({"genes": session.config.as_dict()}, session, stale=stale)

    async def gene(self, session_id: str | None, name: str) -> Reply:
        """Return {gene_name, gene_value, processor_id, session_id}. Raises: GeneNotFound."""
        session, stale = await self._looked_up(session_id)
        body: Reply = {"gene_name": name, "gene_value": session.config.get(name)}
        return await self._answer(body, session, stale=stale)

    async def pattern(self, pattern_id: str) -> Reply:
        """Return {pattern, processor_id}; the id with or without `PTRN|`. Raises: PatternNotFound."""
        stale = await self._ltm_stale()
        pattern = self._ltm.get(bare_name(pattern_id))
        degraded = await self._ownership.degraded()
        if pattern is None:
            raise PatternNotFound(pattern_id)
        body: Reply = {"pattern": replies.pattern(pattern), "processor_id": self._processor_id}
        return _marked(body, degraded=stale or degraded)

    async def status(self, session_id: str | None) -> Reply:
        """Return the counts of the processor, and the session's place in time."""
        session, stale = await self._looked_up(session_id)
        stale |= await self._ltm_stale()
        state = _state(session)
        body: Reply = {
            "status": "okay",
            "processor_id": self._processor_id,
            "processor_name": self._processor_name,
            "uptime": self._uptime_s(),
            "stm_length": len(state.stm),
            "time": state.time,
            "patterns": len(self._ltm),
            "sessions": len(self._sessions.ids),
            "epoch": self._ownership.epoch,
            "version": __version__,
        }
        return _marked(body, degraded=await self._ownership.degraded() or stale)

    async def metrics(self, session_id: str | None) -> Reply:
        """Return what the node has done since it started, and the length of the session's STM."""
        session, stale = await self._looked_up(session_id)
        body: Reply = {
            "observations_processed": self._counters.observations_processed,
            "patterns_learned": self._counters.patterns_learned,
            "predictions_generated": self._counters.predictions_generated,
            "stm_size": len(_state(session).stm),
            "uptime_seconds": self._uptime_s(),
            "processor_id": self._processor_id,
        }
        return _marked(body, degraded=await self._ownership.degraded() or stale)

    def stm_length(self, session_id: str | None) -> int:
        """Return the length of the session's STM as memory has it, 0 if it has none; asks nobody, never raises."""
        try:
            return len(_state(self._sessions.get(session_id)).stm)
        except SessionNotFound:
            return 0

    async def _looked_up(self, session_id: str | None) -> tuple[Session, bool]:
        """Return the session, and whether it may be behind the store, which is out of reach."""
        session = self._sessions.get(session_id)
        try:
            await self._sessions.record(session)
        except StoreUnavailable:
            if session.record is None:
                raise
            return session, True  # in doubt since its last commit: what was acknowledged before stands
        return session, False

    async def _ranking(self, session: Session, stm: Stm | None) -> tuple[Shown, bool]:
        """Return the ranking, and whether the LTM may be behind the store, which is out of reach."""
        if stm is None:
            return Shown(), False
        stale = await self._ltm_stale()
        ranking = await self._predictor.ranking(stm, session.config, self._ltm)
        self._counters.predictions_generated += len(ranking.predictions)
        return ranking, stale

    async def _ltm_stale(self) -> bool:
        try:
            await self._writer.settled()
        except StoreUnavailable:
            return True
        return False

    async def _answer(self, body: Reply, session: Session, *, stale: bool) -> Reply:
        body["processor_id"] = self._processor_id
        body["session_id"] = session.session_id
        return _marked(body, degraded=await self._ownership.degraded() or stale)

    def _uptime_s(self) -> float:
        return self._ownership.now_s() - self._started_s


def _state(session: Session) -> SessionState:
    return EMPTY if session.record is None else session.record.state


def _marked(body: Reply, *, degraded: bool) -> Reply:
    if degraded:
        body["degraded"] = True
    return body

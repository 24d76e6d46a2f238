"""What a processor with several sessions is to be: the pure domain, one operation after the other, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from kato_node.domain.config import DEFAULT, Config
from kato_node.domain.edit import edited, validated_edit
from kato_node.domain.errors import DomainError
from kato_node.domain.learn import Episode, Pattern, Transition, display_name, learn
from kato_node.domain.ltm import LtmChange, learned_into
from kato_node.domain.observation import Observation, validated
from kato_node.domain.observe import clear_stm, observe
from kato_node.domain.state import EMPTY, SessionState, Vector
from tests.chaos.operations import Body, Json, Kind, Op


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client was told, or should have been: a reply's body, or the code of a refusal."""

    body: Body = field(default_factory=dict)
    code: str | None = None

    def __str__(self) -> str:
        return self.code or str(dict(self.body))


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionModel:
    """A session."""

    state: SessionState = EMPTY
    config: Config = DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorModel:
    """A processor: its live sessions by id, its patterns by bare name. No vectors: the runs learn none."""

    sessions: Mapping[str, SessionModel] = field(default_factory=dict)
    patterns: Mapping[str, Pattern] = field(default_factory=dict)

    # As the domain's functions read an LTM.
    @property
    def dimension(self) -> int | None:
        """None: no vector was learned."""
        return None

    @property
    def vectors(self) -> Mapping[str, Vector]:
        """None."""
        return {}

    def get(self, name: str) -> Pattern | None:
        """Return the pattern of that bare name."""
        return self.patterns.get(name)

    def vector_uses(self, _symbol: str) -> int:
        """Return 0."""
        return 0

    def changed(self, change: LtmChange) -> ProcessorModel:
        """Return the processor with this change of its patterns."""
        patterns = {} if change.cleared else dict(self.patterns)
        patterns |= {pattern.name: pattern for pattern in change.put}
        for name in change.deleted:
            del patterns[name]
        return replace(self, patterns=patterns)

    def learned(self, episode: Episode | None) -> ProcessorModel:
        """Return the processor with this episode learned."""
        return self if episode is None else self.changed(learned_into(self, episode))

    def with_session(self, session_id: str, session: SessionModel) -> ProcessorModel:
        """Return the processor with this session as it is now."""
        return replace(self, sessions={**self.sessions, session_id: session})


Moved: TypeAlias = tuple[ProcessorModel, Answer]


def applied(model: ProcessorModel, session_id: str, op: Op) -> Moved:
    """Return the processor after the operation, and what its client is to be told."""
    if op.kind == "create":
        return _created(model, session_id, op.body)
    session = model.sessions.get(session_id)
    if session is None:
        return model, Answer(code="SESSION_NOT_FOUND")
    if op.kind == "end":
        left = {known: one for known, one in model.sessions.items() if known != session_id}
        return replace(model, sessions=left), Answer()
    try:
        return _called(model, session_id, session, op)
    except DomainError as error:
        return model, Answer(code=error.code)


def _created(model: ProcessorModel, session_id: str, config: Body) -> Moved:
    if session_id in model.sessions:
        return model, Answer()
    return model.with_session(session_id, SessionModel(config=DEFAULT.updated(config))), Answer()


def _called(model: ProcessorModel, session_id: str, session: SessionModel, op: Op) -> Moved:
    if op.kind in {"edit", "forget"}:
        return _corrected(model, op)
    if not op.changes:
        return model, _read(model, session, op)
    return _MOVES[op.kind](model, session_id, session, op.body)


def _observe(model: ProcessorModel, session_id: str, session: SessionModel, body: Body) -> Moved:
    step = _observed(session, body)
    return _moved(model, session_id, session, step), Answer(body=_observe_body(step, body))


def _learn(model: ProcessorModel, session_id: str, session: SessionModel, _body: Body) -> Moved:
    step = learn(session.state, config=session.config)
    return _moved(model, session_id, session, step), Answer(body={"pattern_name": step.learned or ""})


def _clear(model: ProcessorModel, session_id: str, session: SessionModel, _body: Body) -> Moved:
    left = model.with_session(session_id, replace(session, state=clear_stm(session.state)))
    return left, Answer(body={"message": "stm-cleared"})


def _clear_all(model: ProcessorModel, session_id: str, session: SessionModel, body: Body) -> Moved:
    left, _ = _clear(model, session_id, session, body)
    return replace(left, patterns={}), Answer(body={"message": "all-cleared"})


def _genes(model: ProcessorModel, session_id: str, session: SessionModel, body: Body) -> Moved:
    config = session.config.updated(body)
    return model.with_session(session_id, replace(session, config=config)), Answer(body={"genes": config.as_dict()})


def _observed(session: SessionModel, body: Body) -> Transition:
    observation = validated(Observation(**body))  # type: ignore[arg-type]  # the domain checks what JSON holds
    return observe(session.state, observation, config=session.config, dimension=None)


def _observe_body(step: Transition, body: Body) -> Body:
    return {
        "time": step.state.time,
        "stm_length": len(step.state.stm),
        "auto_learned_pattern": step.learned,
        **({"unique_id": body["unique_id"]} if "unique_id" in body else {}),
    }


def _moved(model: ProcessorModel, session_id: str, session: SessionModel, step: Transition) -> ProcessorModel:
    return model.with_session(session_id, replace(session, state=step.state)).learned(step.episode)


def _sequence(model: ProcessorModel, session_id: str, session: SessionModel, body: Body) -> Moved:
    names: list[str] = []
    initial = len(session.state.stm)

    def take(step: Transition) -> None:
        nonlocal model, session
        model = _moved(model, session_id, session, step)
        session = model.sessions[session_id]
        if step.learned:
            names.append(step.learned)

    observations = body["observations"]
    assert isinstance(observations, list)
    for position, item in enumerate(observations):
        if position and body.get("clear_stm_between"):
            session = replace(session, state=clear_stm(session.state))
        take(_observed(session, item))
        if body.get("learn_after_each"):
            take(learn(session.state, config=session.config))
    on_the_way, final = list(names), None
    if body.get("learn_at_end"):
        step = learn(session.state, config=session.config)
        final = step.learned
        take(step)
    told: Body = {
        "observations_processed": len(observations),
        "initial_stm_length": initial,
        "final_stm_length": len(session.state.stm),
        "auto_learned_patterns": on_the_way,
        "final_learned_pattern": final,
    }
    return model, Answer(body=told)


_MOVES: Mapping[Kind, Callable[[ProcessorModel, str, SessionModel, Body], Moved]] = {
    "observe": _observe,
    "sequence": _sequence,
    "learn": _learn,
    "clear": _clear,
    "clear_all": _clear_all,
    "genes": _genes,
}


def _corrected(model: ProcessorModel, op: Op) -> Moved:
    if op.pattern not in model.patterns:
        return model, Answer(code="PATTERN_NOT_FOUND")
    if op.kind == "forget":
        return model.changed(LtmChange(deleted=(op.pattern,))), Answer(body={"name": display_name(op.pattern)})
    after = model.changed(edited(model, op.pattern, validated_edit(op.body)))
    return after, Answer(body={"pattern": shown(after.patterns[op.pattern])})


def _read(model: ProcessorModel, session: SessionModel, op: Op) -> Answer:
    state = session.state
    match op.kind:
        case "stm":
            return Answer(body={"stm": state.stm, "length": len(state.stm)})
        case "config":
            return Answer(body={"genes": session.config.as_dict()})
        case "status":
            counts = {"stm_length": len(state.stm), "time": state.time, "patterns": len(model.patterns)}
            return Answer(body=counts)
        case _:
            pattern = model.patterns.get(op.pattern)
            return Answer(code="PATTERN_NOT_FOUND") if pattern is None else Answer(body={"pattern": shown(pattern)})


def shown(pattern: Pattern) -> Mapping[str, Json]:
    """Return the pattern as the interfaces show it."""
    return {
        "name": display_name(pattern.name),
        "pattern_data": pattern.events,
        "frequency": pattern.frequency,
        "emotives": pattern.emotives,
        "metadata": pattern.metadata,
    }

"""What is true of every session."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from kato_node.domain.config import DEFAULT
from kato_node.domain.learn import learn, pattern_name
from kato_node.domain.ltm import Ltm, learned_into
from kato_node.domain.observation import Observation, validated
from kato_node.domain.observe import observe
from kato_node.domain.predict import predict
from kato_node.domain.state import EMPTY, SessionState, Stm
from kato_node.domain.vectors import symbol_of
from tests.property.domain.strategies import CONFIGS, CORPORA, EMOTIVES, METADATA, NUMBERS, PATTERNS, SYMBOLS, taught
from tests.unit.domain.session import Session

OBSERVATIONS = st.builds(
    Observation,
    strings=st.lists(SYMBOLS, max_size=3),
    vectors=st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=2),
    emotives=EMOTIVES,
    metadata=METADATA,
).map(validated)
Step = Callable[[Session], object]


def observing(observation: Observation) -> Step:
    """Return the step that observes it."""
    return lambda session: session.observe(
        *observation.strings,
        vectors=observation.vectors,
        emotives=observation.emotives,
        metadata=observation.metadata,
    )


STEPS = st.lists(
    OBSERVATIONS.map(observing)
    | st.sampled_from([Session.learn, Session.learn, Session.clear_stm, Session.clear_all, Session.predict]),
    max_size=8,
)


@given(pattern=PATTERNS)
def test_learning_twice(pattern: Stm) -> None:
    """Learning the same twice: same name, one pattern, frequency 2."""
    session = taught([pattern, pattern])
    learned = session.ltm.get(pattern_name(pattern))
    assert learned is not None
    assert (learned.events, learned.frequency, len(session.ltm)) == (pattern, 2, 1)


@given(corpus=CORPORA, pattern=PATTERNS, random=st.randoms(use_true_random=False))
def test_order_within_an_event_never_matters(corpus: list[Stm], pattern: Stm, random: Random) -> None:
    """With sort_symbols the order of symbols within an event changes no STM, no name and no prediction."""
    shuffled = tuple(tuple(random.sample(event, len(event))) for event in pattern)
    ltm = taught(corpus).ltm
    one, other = Session(ltm), Session(ltm)
    one.observe_all(pattern)
    other.observe_all(shuffled)
    assert one.state.stm == other.state.stm
    assert one.predict() == other.predict()
    assert learn(one.state, config=DEFAULT).learned == learn(other.state, config=DEFAULT).learned


@given(steps=STEPS, others=STEPS, config=CONFIGS, random=st.randoms(use_true_random=False))
def test_a_session_is_independent_of_another(
    steps: list[Step], others: list[Step], config: dict[str, object], random: Random
) -> None:
    """Whatever another session does in between, a session's state is the same; they share the LTM alone."""
    alone = Session()
    ltm = Ltm()
    together, other = Session(ltm), Session(ltm)
    alone.config = together.config = DEFAULT.updated(config)
    pending = list(others)
    for step in steps:
        while pending and random.random() < 0.6:
            pending.pop(0)(other)
        step(alone)
        step(together)
        assert together.state == alone.state


@given(observations=st.lists(OBSERVATIONS, max_size=6), config=CONFIGS)
def test_nothing_is_mutated_in_place(observations: list[Observation], config: dict[str, object]) -> None:
    """No state, observation, pattern or view that was handed out ever changes."""
    settings = DEFAULT.updated(config)
    ltm = Ltm()
    state = EMPTY
    kept: list[tuple[object, object]] = []
    for observation in observations:
        view = ltm.view()
        before = predict(state.stm, config=settings, ltm=view)
        kept.append(((state, observation, view.patterns), copy.deepcopy((state, observation, view.patterns))))
        step = observe(state, observation, config=settings, dimension=ltm.dimension)
        if step.episode is not None:
            kept.append((step.episode, copy.deepcopy(step.episode)))
            ltm.apply(learned_into(ltm, step.episode))
        assert predict(state.stm, config=settings, ltm=view) == before
        state = step.state
    assert all(value == original for value, original in kept)


@given(observations=st.lists(OBSERVATIONS, max_size=6), config=CONFIGS)
def test_a_state_survives_storage(observations: list[Observation], config: dict[str, object]) -> None:
    """A state made anew from its values, JSON values through JSON text, is equal, and learns the same pattern."""
    session = Session()
    session.config = DEFAULT.updated(config)
    for observation in observations:
        observing(observation)(session)
    state = session.state
    reloaded = SessionState(
        stm=state.stm,
        event_times=state.event_times,
        time=state.time,
        emotives=tuple((time, json.loads(json.dumps(entry))) for time, entry in state.emotives),
        metadata=tuple((time, json.loads(json.dumps(entry))) for time, entry in state.metadata),
        percept=state.percept,
        vectors=state.vectors,
    )
    assert reloaded == state
    assert repr(learn(reloaded, config=session.config)) == repr(learn(state, config=session.config))


@given(observations=st.lists(OBSERVATIONS, min_size=1, max_size=6), config=CONFIGS)
def test_time_and_events(observations: list[Observation], config: dict[str, object]) -> None:
    """Time counts observations; events keep their order and their times; the STM never holds an empty event."""
    session = Session()
    session.config = DEFAULT.updated(config)
    for time, observation in enumerate(observations, start=1):
        result = observing(observation)(session)
        state = session.state
        assert state.time == time
        assert all(state.stm)
        assert list(state.event_times) == sorted(set(state.event_times))
        if observation.strings or observation.vectors:
            learned = result is not None
            rolled = session.config.stm_mode == "ROLLING" and session.config.max_pattern_length > 1
            assert bool(state.stm) == (not learned or rolled)
            if state.stm:
                assert state.event_times[-1] == time
                assert len(state.stm[-1]) == len(observation.strings) + bool(observation.vectors)
        if session.config.max_pattern_length:
            assert len(state.stm) < session.config.max_pattern_length


@given(vectors=st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1, max_size=4))
def test_a_vector_has_one_symbol(vectors: list[list[float]]) -> None:
    """The same values have the same symbol, wherever -0.0 stands for 0.0."""
    flipped = [[-0.0 if value == 0 else value for value in vector] for vector in vectors]
    one, other = Session(), Session()
    one.observe(vectors=vectors)
    other.observe(vectors=flipped)
    assert one.state.stm == other.state.stm == ((symbol_of(one.state.vectors[0]),),)

"""Observing and clearing: a session's transitions that need no LTM (processor.md, sections 2, 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kato_node.domain.config import Config
from kato_node.domain.errors import MemoryTooLarge
from kato_node.domain.learn import Transition, learn
from kato_node.domain.limits import LIMITS, Limits
from kato_node.domain.observation import Observation
from kato_node.domain.state import (
    EMPTY,
    Event,
    Percept,
    SessionState,
    Vector,
    entry_bytes,
    event_bytes,
    vector_bytes,
)
from kato_node.domain.vectors import require_dimension, summed, symbol_of


def observe(
    state: SessionState,
    observation: Observation,
    *,
    config: Config,
    dimension: int | None,
    neighbors: Sequence[str] = (),
    limits: Limits = LIMITS,
) -> Transition:
    """Append one observation's event to the STM; hand the STM over for learning once it is full.

    Args:
        observation: a valid one; see `validated`.
        dimension: the LTM's; None until a vector was learned.
        neighbors: the learned vector symbols that join the event; see `neighbors_of`.
    Returns: the next state, and what to learn if auto-learn triggered.
    Raises: VectorDimensionMismatch, MemoryTooLarge.
    Cost: O(len(state.stm)): one tuple copy.
    """
    vector = summed(observation.vectors) if observation.vectors else None
    if vector is not None:
        require_dimension(vector, _dimension(state, dimension))
    event = _event(observation, vector, neighbors, sort=config.sort_symbols)
    observed = _appended(state, observation, event, vector)
    _require_room(observed, limits)
    if event and 0 < config.max_pattern_length <= len(observed.stm):
        return _auto_learned(observed, config)
    return Transition(state=observed, observed=observed.stm)


def clear_stm(_state: SessionState) -> SessionState:
    """Return the state of a session that has observed nothing; config and LTM are not its concern."""
    return EMPTY


def _dimension(state: SessionState, learned: int | None) -> int | None:
    """Return the length that a vector must have: the LTM's, until then that of the session's first unlearned one."""
    if learned is None and state.vectors:
        return len(state.vectors[0])
    return learned


def _event(observation: Observation, vector: Vector | None, neighbors: Sequence[str], *, sort: bool) -> Event:
    """Return the vector symbols, de-duplicated and sorted, then the strings."""
    symbols = () if vector is None else sorted({symbol_of(vector), *neighbors})
    strings = sorted(observation.strings) if sort else observation.strings
    return (*symbols, *strings)


def _appended(state: SessionState, observation: Observation, event: Event, vector: Vector | None) -> SessionState:
    """Return the state after the observation, before any auto-learn."""
    time = state.time + 1
    emotives = ((time, observation.emotives),) if observation.emotives else ()
    metadata = ((time, observation.metadata),) if observation.metadata else ()
    vectors = () if vector is None else (vector,)
    carried = sum(entry_bytes(entry) for _, entry in (*emotives, *metadata)) + sum(map(vector_bytes, vectors))
    return SessionState(
        stm=(*state.stm, event) if event else state.stm,
        event_times=(*state.event_times, time) if event else state.event_times,
        time=time,
        emotives=(*state.emotives, *emotives),
        metadata=(*state.metadata, *metadata),
        percept=Percept(
            strings=tuple(sorted(observation.strings)),
            vectors=tuple(tuple(values) for values in observation.vectors),
            emotives=observation.emotives,
            metadata=observation.metadata,
        ),
        vectors=(*state.vectors, *vectors),
        stm_bytes=state.stm_bytes + event_bytes(event),
        carried_bytes=state.carried_bytes + carried,
    )


def _require_room(state: SessionState, limits: Limits) -> None:
    """Check the STM and what travels with it against the limits. Raises: MemoryTooLarge."""
    for what, actual, limit, unit in (
        ("STM", len(state.stm), limits.stm_events_max, "events"),
        ("STM", state.stm_bytes, limits.stm_bytes_max, "bytes"),
        ("session's emotives, metadata and vectors", state.carried_bytes, limits.pattern_bytes_max, "bytes"),
    ):
        if actual > limit:
            raise MemoryTooLarge(what=what, actual=actual, limit=limit, unit=unit)


def _auto_learned(state: SessionState, config: Config) -> Transition:
    """Learn the full STM; in ROLLING keep the newest max-1 events and the entries no older than the oldest of them."""
    step = replace(learn(state, config=config), observed=state.stm)
    kept = config.max_pattern_length - 1
    if config.stm_mode != "ROLLING" or kept == 0:
        return step
    oldest = state.event_times[-kept]
    rolled = SessionState(
        stm=state.stm[-kept:],
        event_times=state.event_times[-kept:],
        time=state.time,
        emotives=tuple(entry for entry in state.emotives if entry[0] >= oldest),
        metadata=tuple(entry for entry in state.metadata if entry[0] >= oldest),
        percept=state.percept,
    )
    return replace(step, state=rolled)

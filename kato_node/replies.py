"""The bodies of api.md, section 1: plain JSON, built from values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kato_node.domain import emotives
from kato_node.domain.learn import Pattern, Transition, display_name
from kato_node.domain.predict import Ranking
from kato_node.domain.state import Json, SessionState

Reply = dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A ranking as the interfaces show it."""

    predictions: Sequence[Json] = ()
    future_potentials: Sequence[Json] = ()


def shown(ranking: Ranking) -> Shown:
    """Return the ranking as JSON."""
    return Shown(
        predictions=[prediction.as_dict() for prediction in ranking.predictions],
        future_potentials=[potential.as_dict() for potential in ranking.future_potentials],
    )


def observed(step: Transition, *, unique_id: str, processor_id: str, session_id: str) -> Reply:
    """Return the reply to observe."""
    return {
        "status": "okay",
        "processor_id": processor_id,
        "session_id": session_id,
        "auto_learned_pattern": step.learned,
        "time": step.state.time,
        "stm_length": len(step.state.stm),
        "unique_id": unique_id,
    }


def sequence_item(step: Transition, *, position: int, unique_id: str) -> Reply:
    """Return one observation's part of the reply to observe-sequence."""
    return {
        "status": "okay",
        "sequence_position": position,
        "stm_length": len(step.state.stm),
        "time": step.state.time,
        "unique_id": unique_id,
        "auto_learned_pattern": step.learned,
    }


def sequence(
    results: Sequence[Reply],
    *,
    lengths: tuple[int, int],
    names: Sequence[str],
    final: str | None,
    isolated: bool,
    processor_id: str,
    session_id: str,
) -> Reply:
    """Return the reply to observe-sequence.

    Args:
        lengths: of the STM before and after.
        names: every pattern learned on the way; `final` is the one learned at the end, None if none was to be.
    """
    return {
        "status": "completed",
        "processor_id": processor_id,
        "session_id": session_id,
        "observations_processed": len(results),
        "initial_stm_length": lengths[0],
        "final_stm_length": lengths[1],
        "results": results,
        "auto_learned_patterns": names,
        "final_learned_pattern": final,
        "isolated": isolated,
    }


def learned(name: str, *, processor_id: str, session_id: str) -> Reply:
    """Return the reply to learn; the name is "" if there was too little to learn."""
    return {
        "pattern_name": name,
        "processor_id": processor_id,
        "session_id": session_id,
        "message": f"Learned pattern {name}" if name else "Insufficient data for learning",
    }


def cleared(message: str, *, processor_id: str, session_id: str) -> Reply:
    """Return the reply to clear-stm ("stm-cleared") and clear-all ("all-cleared")."""
    return {"status": "okay", "message": message, "processor_id": processor_id, "session_id": session_id}


def pattern(pattern: Pattern) -> Reply:
    """Return a pattern as the interfaces show it; its length is in symbols."""
    return {
        "name": display_name(pattern.name),
        "pattern_data": pattern.events,
        "length": sum(map(len, pattern.events)),
        "frequency": pattern.frequency,
        "emotives": pattern.emotives,
        "metadata": pattern.metadata,
    }


def percept_data(state: SessionState) -> Mapping[str, Json]:
    """Return the latest observation; {} before the first and after a clear."""
    return {} if state.percept is None else state.percept.as_dict()


def cognition_data(state: SessionState, ranking: Shown) -> Reply:
    """Return what the processor makes of the moment; its symbols are the latest observation's event."""
    latest = state.stm[-1] if state.event_times[-1:] == (state.time,) else ()
    return {
        "predictions": ranking.predictions,
        "emotives": emotives.current(state.emotives),
        "symbols": latest,
        "command": "",
        "metadata": {},
        "path": (),
        "strings": (),
        "vectors": (),
        "short_term_memory": state.stm,
        "time": state.time,
    }

"""Sections 2, 4 and 5: observing, auto-learning and clearing."""

from __future__ import annotations

import pytest

from kato_node.domain import emotives
from kato_node.domain.config import DEFAULT
from kato_node.domain.errors import MemoryTooLarge
from kato_node.domain.learn import display_name, pattern_name
from kato_node.domain.limits import Limits
from kato_node.domain.observation import Observation
from kato_node.domain.observe import observe
from kato_node.domain.state import EMPTY, SessionState
from tests.unit.domain.session import Session, events


def name(pattern: str) -> str:
    """Return the name to show of a pattern."""
    return display_name(pattern_name(events(pattern)))


def test_strings_are_sorted_by_code_point() -> None:
    """`b a b A é 10 2 '' z` becomes ['', '10', '2', 'A', 'a', 'b', 'b', 'z', 'é']."""
    session = Session()
    session.observe("b", "a", "b", "A", "é", "10", "2", "", "z")
    assert session.state.stm == (("", "10", "2", "A", "a", "b", "b", "z", "é"),)


def test_strings_stay_as_given_without_sort_symbols() -> None:
    """Without sort_symbols strings are kept as given; the percept's are sorted all the same."""
    session = Session(sort_symbols=False)
    session.observe("b", " a", "b")
    assert session.state.stm == (("b", " a", "b"),)
    assert session.state.percept is not None
    assert session.state.percept.strings == (" a", "b", "b")


def test_time_counts_every_observation() -> None:
    """Time goes on for an empty observation too, which appends no event."""
    session = Session()
    session.observe("a")
    session.observe()
    session.observe(emotives={"joy": 1})
    session.observe("b")
    assert session.state.time == 4
    assert session.state.stm == (("a",), ("b",))
    assert session.state.event_times == (1, 4)


def test_emotives_and_metadata_are_kept_with_their_time() -> None:
    """Non-empty emotives and metadata are appended with this time."""
    session = Session()
    session.observe("a", emotives={"joy": 1})
    session.observe("b")
    session.observe(emotives={"joy": 3}, metadata={"k": [1]})
    assert session.state.emotives == ((1, {"joy": 1.0}), (3, {"joy": 3.0}))
    assert session.state.metadata == ((3, {"k": [1]}),)


def test_the_percept_is_the_latest_observation() -> None:
    """The percept is {strings (sorted), vectors, emotives, metadata, path: []} of the latest observation."""
    session = Session()
    session.observe("x", metadata={"old": 1})
    session.observe("b", "a", vectors=[[1, 2], [3, 4]], emotives={"joy": 1})
    assert session.state.percept is not None
    assert session.state.percept.as_dict() == {
        "strings": ("a", "b"),
        "vectors": ((1.0, 2.0), (3.0, 4.0)),
        "emotives": {"joy": 1.0},
        "metadata": {},
        "path": (),
    }


def test_current_emotives_are_means_over_the_entries_that_have_the_key() -> None:
    """[{x:1},{x:3,y:2}] gives {x:2, y:2}."""
    session = Session()
    session.observe("a", emotives={"x": 1})
    session.observe("b", emotives={"x": 3, "y": 2})
    assert emotives.current(session.state.emotives) == {"x": 2.0, "y": 2.0}
    assert emotives.current(()) == {}


def test_means_round_once() -> None:
    """A mean depends on the values alone, not on their order."""
    assert emotives.averaged([{"x": 1e16}, {"x": 1.5}, {"x": -1e16}]) == {"x": 0.5}


def test_no_mean_is_negative_zero() -> None:
    """A mean that rounds to zero from below is 0.0."""
    assert repr(emotives.averaged([{"x": -5e-324}, {"x": 0.0}, {"x": 0.0}])) == "{'x': 0.0}"


def test_auto_learn_clears() -> None:
    """CLEAR, max 3, observing a b c d e: learns abc at c; STM then [[d],[e]]."""
    session = Session(max_pattern_length=3)
    results = [session.observe(symbol) for symbol in "abcde"]
    assert results == [None, None, name("a b c"), None, None]
    assert session.state.stm == events("d e")
    assert session.state.time == 5


def test_auto_learn_rolls() -> None:
    """ROLLING, max 3, observing a b c d e: learns abc at c, bcd at d, cde at e; STM [[d],[e]]."""
    session = Session(max_pattern_length=3, stm_mode="ROLLING")
    results = [session.observe(symbol) for symbol in "abcde"]
    assert results == [None, None, name("a b c"), name("b c d"), name("c d e")]
    assert session.state.stm == events("d e")
    assert session.state.event_times == (4, 5)
    assert len(session.ltm) == 3


@pytest.mark.parametrize("mode", ["CLEAR", "ROLLING"])
def test_auto_learn_of_one_event(mode: str) -> None:
    """With max 1 each event is learned by itself, and nothing of it is kept; one symbol is too short: ""."""
    session = Session(max_pattern_length=1, stm_mode=mode)
    assert session.observe("a", emotives={"joy": 1}) == ""
    assert session.state.stm == ()
    assert session.state.emotives == ()
    assert session.observe("a", "b") == name("[a b]")
    assert session.state.stm == ()
    assert len(session.ltm) == 1


def test_auto_learn_counts_events_not_symbols() -> None:
    """An STM of many symbols in fewer events is not learned."""
    session = Session(max_pattern_length=2)
    assert session.observe("a", "b", "c") is None
    assert session.observe("d") == name("[a b c] d")


def test_an_empty_event_never_triggers() -> None:
    """An observation without symbols triggers no auto-learn, even on an STM that is long enough."""
    session = Session()
    session.observe_all(events("a b c"))
    session.config = DEFAULT.updated({"max_pattern_length": 2, "stm_mode": "ROLLING"})
    assert session.observe(emotives={"joy": 1}) is None
    assert session.observe("d") == name("a b c d")
    assert session.state.stm == events("d")


def test_rolling_keeps_what_is_no_older_than_the_oldest_kept_event() -> None:
    """In ROLLING the emotives and metadata entries no older than the oldest kept event are kept, the rest dropped."""
    session = Session(max_pattern_length=3, stm_mode="ROLLING")
    session.observe("a", emotives={"x": 1}, metadata={"k": 1})
    session.observe(emotives={"x": 2}, metadata={"k": 2})
    session.observe("b", emotives={"x": 3}, metadata={"k": 3})
    session.observe(emotives={"x": 4})
    session.observe("c", metadata={"k": 5})
    assert session.state.stm == events("b c")
    assert session.state.emotives == ((3, {"x": 3.0}), (4, {"x": 4.0}))
    assert session.state.metadata == ((3, {"k": 3}), (5, {"k": 5}))


def test_rolling_leaves_no_vector_unlearned() -> None:
    """After a rolling learn the vectors of the kept events are learned ones."""
    session = Session(max_pattern_length=2, stm_mode="ROLLING")
    session.observe(vectors=[[1, 2]])
    session.observe(vectors=[[3, 4]])
    assert session.state.vectors == ()
    assert len(session.state.stm) == 1
    assert len(session.ltm.vectors) == 2


def test_predictions_by_unique_id_have_the_event_before_it_was_learned() -> None:
    """An event is appended, predicted and then learned: the transition holds the STM before the learn."""
    config = DEFAULT.updated({"max_pattern_length": 2})
    first = observe(EMPTY, Observation(strings=["a"]), config=config, dimension=None)
    second = observe(first.state, Observation(strings=["b"]), config=config, dimension=None)
    assert first.observed == events("a")
    assert second.observed == events("a b")
    assert second.state.stm == ()


def test_clear_stm() -> None:
    """clear-stm empties STM, emotives, metadata, percept and unlearned vectors, and sets time 0; the LTM stays."""
    session = Session()
    session.observe_all(events("a b"))
    session.learn()
    session.observe("c", vectors=[[1]], emotives={"x": 1}, metadata={"k": 1})
    session.clear_stm()
    assert session.state == SessionState()
    assert len(session.ltm) == 1


def test_clear_all() -> None:
    """clear-all deletes every pattern and the vector dimension with them; other sessions' STMs stay."""
    session = Session()
    other = Session(session.ltm)
    other.observe("x")
    session.observe("a", vectors=[[1, 2]])
    session.learn()
    session.observe("b")
    session.clear_all()
    assert session.state == SessionState()
    assert (len(session.ltm), session.ltm.dimension, dict(session.ltm.vectors)) == (0, None, {})
    assert other.state.stm == events("x")
    session.observe("a", vectors=[[1, 2, 3]])
    assert session.learn()


@pytest.mark.parametrize(
    ("limits", "fitting", "beyond"),
    [
        (Limits(stm_events_max=2), {"strings": ["b"]}, {"strings": ["b"]}),
        (Limits(stm_bytes_max=10), {"strings": ["ééé"]}, {"strings": ["éééa"]}),
        (Limits(stm_bytes_max=12), {"strings": ["", "a"]}, {"strings": ["", "a", "b"]}),
        (Limits(pattern_bytes_max=100), {"vectors": [[0.0] * 12]}, {"vectors": [[0.0] * 13]}),
        (Limits(pattern_bytes_max=80), {"emotives": {"x": 1.0}}, {"emotives": {"x" * 10: 1.0}}),
        (Limits(pattern_bytes_max=80), {"metadata": {"x": 1}}, {"metadata": {"x": "é" * 10}}),
    ],
)
def test_the_stm_has_limits(limits: Limits, fitting: dict[str, object], beyond: dict[str, object]) -> None:
    """What would outgrow a limit is MEMORY_TOO_LARGE, names learn and clear-stm, and changes nothing."""
    start = observe(EMPTY, Observation(strings=["ab"]), config=DEFAULT, dimension=None, limits=limits).state
    fit, large = Observation(**fitting), Observation(**beyond)  # type: ignore[arg-type]
    after = observe(start, fit, config=DEFAULT, dimension=None, limits=limits).state
    if limits.stm_events_max == 2:
        start = after
    with pytest.raises(MemoryTooLarge, match="learn or clear-stm") as failure:
        observe(start, large, config=DEFAULT, dimension=None, limits=limits)
    assert failure.value.code == "MEMORY_TOO_LARGE"


def test_a_state_measures_itself() -> None:
    """A state made anew from its values equals the one that was carried along, derived sizes included."""
    session = Session(max_pattern_length=3, stm_mode="ROLLING")
    for symbol in ("a", "é", "", "日本"):
        session.observe(symbol, emotives={"x": 1.5}, metadata={"k": ["é"]})
        session.observe(vectors=[[1, 2]])
    state = session.state
    assert state.stm_bytes > 0
    assert state.carried_bytes > 0
    assert state == SessionState(
        stm=state.stm,
        event_times=state.event_times,
        time=state.time,
        emotives=state.emotives,
        metadata=state.metadata,
        percept=state.percept,
        vectors=state.vectors,
    )

"""The codec, and the difference that a commit writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import LtmChange
from kato_node.domain.state import EMPTY, Json, Percept, SessionState, Vector
from kato_node.store import documents
from kato_node.store.base import Batch, Operation, SessionRecord, SessionWrite, StoreUnavailable
from kato_node.store.documents import SessionDelta, Track
from kato_node.store.memory import MemoryDisk

T = TypeVar("T")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
NUMBER = st.floats(-1e100, 1e100)
JSON: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
TIMES = st.lists(st.integers(1, 12), unique=True, max_size=6).map(sorted)
EMOTIVES = st.dictionaries(TEXT, NUMBER, max_size=2)
METADATA = st.dictionaries(TEXT, JSON, max_size=2)
VECTORS: st.SearchStrategy[Sequence[Vector]] = st.lists(st.tuples(NUMBER, NUMBER), max_size=4)


@st.composite
def states(draw: st.DrawFn) -> SessionState:
    """Any state that a session might have."""
    events, emotives, metadata = draw(TIMES), draw(TIMES), draw(TIMES)
    percept = Percept(strings=("p",), vectors=tuple(draw(VECTORS)), emotives=draw(EMOTIVES), metadata=draw(METADATA))
    return SessionState(
        stm=tuple(tuple(draw(st.lists(TEXT, min_size=1, max_size=2))) for _ in events),
        event_times=tuple(events),
        time=draw(st.integers(0, 12)),
        emotives=tuple((time, draw(EMOTIVES)) for time in emotives),
        metadata=tuple((time, draw(METADATA)) for time in metadata),
        percept=draw(st.none() | st.just(percept)),
        vectors=tuple(draw(VECTORS)),
    )


@st.composite
def records(draw: st.DrawFn) -> SessionRecord:
    """Any record that a session might have, as a node holds it before its commit."""
    first, count = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    return SessionRecord(
        session_id="s",
        incarnation=draw(st.sampled_from("12")),
        state=draw(states()),
        overrides=draw(st.sampled_from([(), (("persistence", 7),)])),
        operations=tuple(
            Operation(number=number, key=f"k{number}", body_hash="h", reply=draw(TEXT))
            for number in range(first, first + count)
        ),
    )


@st.composite
def successors(draw: st.DrawFn, before: SessionRecord) -> SessionRecord:
    """A record that keeps any run of each of the tracks of another, as the very objects, and goes on differently."""
    other = draw(records())
    was, now = before.state, other.state
    events = _joined(draw, zip(was.event_times, was.stm, strict=True), zip(now.event_times, now.stm, strict=True))
    operations = _joined(
        draw,
        [(operation.number, operation) for operation in before.operations],
        [(operation.number, operation) for operation in other.operations],
    )
    return replace(
        other,
        state=SessionState(
            stm=tuple(event for _, event in events),
            event_times=tuple(time for time, _ in events),
            time=now.time,
            emotives=tuple(_joined(draw, was.emotives, now.emotives)),
            metadata=tuple(_joined(draw, was.metadata, now.metadata)),
            percept=draw(st.sampled_from([was.percept, now.percept])),
            vectors=draw(st.sampled_from([was.vectors, (*was.vectors, (1.0, 2.0)), now.vectors])),
        ),
        overrides=draw(st.sampled_from([before.overrides, other.overrides])),
        operations=tuple(operation for _, operation in operations),
    )


def _joined(draw: st.DrawFn, old: Iterable[tuple[int, T]], new: Iterable[tuple[int, T]]) -> list[tuple[int, T]]:
    """Return a run of the old, then what the new has of higher numbers."""
    rows = list(old)
    first = draw(st.integers(0, len(rows)))
    kept = rows[first : draw(st.integers(first, len(rows)))]
    return [*kept, *(row for row in new if not kept or row[0] > kept[-1][0])]


def stored_after(*written: SessionRecord | None) -> SessionRecord | None:
    """Return what is stored once these records were committed, one after the other."""
    disk = MemoryDisk()
    disk.take_over("p")
    before = None
    for after in written:
        disk.write("p", batch(before, after), epoch=1)
        before = after
    session = disk.processor("p").sessions.get("s")
    if session is None:
        return None
    rows = {track: sorted(numbered.items()) for track, numbered in session.tracks.items()}
    return documents.session_record("s", session.head, rows)


def batch(before: SessionRecord | None, after: SessionRecord | None, *ltm: LtmChange) -> Batch:
    """Return the transaction between two records."""
    return Batch(sessions=[SessionWrite(session_id="s", before=before, after=after)], ltm=ltm)


def delta(before: SessionRecord | None, after: SessionRecord) -> SessionDelta:
    """Return what is written between two records."""
    return documents.session_delta(SessionWrite(session_id="s", before=before, after=after))


def grown(events: int) -> SessionRecord:
    """Return a session that has observed that many events, with everything in them."""
    times = range(1, events + 1)
    state = SessionState(
        stm=tuple((f"symbol {time}",) for time in times),
        event_times=tuple(times),
        time=events,
        emotives=tuple((time, {"joy": 1.0}) for time in times),
        metadata=tuple((time, {"at": time}) for time in times),
        vectors=tuple((float(time),) for time in times),
    )
    operations = tuple(Operation(number=n, key=f"k{n}", body_hash="h", reply="{}") for n in times)
    return SessionRecord(session_id="s", incarnation="1", state=state, overrides=(), operations=operations)


def appended(record: SessionRecord) -> SessionRecord:
    """Return the session after one more moment."""
    more = grown(record.state.time + 1)
    return replace(
        record,
        state=replace(
            more.state,
            stm=(*record.state.stm, more.state.stm[-1]),
            emotives=(*record.state.emotives, more.state.emotives[-1]),
            metadata=(*record.state.metadata, more.state.metadata[-1]),
            vectors=(*record.state.vectors, more.state.vectors[-1]),
            event_times=(*record.state.event_times, record.state.time + 1),
        ),
        operations=(*record.operations, more.operations[-1]),
    )


@given(records().flatmap(lambda before: st.tuples(st.just(before), successors(before))))
def test_the_difference_is_right_for_any_two_records(pair: tuple[SessionRecord, SessionRecord]) -> None:
    """Whatever came before and comes after, the store then holds what came after: the same values of the same types."""
    before, after = pair
    assert repr(stored_after(before, after)) == repr(after)


@given(records(), records(), records())
def test_any_life_of_a_session_is_stored(first: SessionRecord, second: SessionRecord, third: SessionRecord) -> None:
    """Unrelated records, an end and a new beginning: the store holds the last."""
    assert repr(stored_after(first, second, None, third)) == repr(third)
    assert stored_after(first, second, None) is None


@pytest.mark.parametrize("events", [1, 10, 1000])
def test_an_append_writes_one_row_of_each_track(events: int) -> None:
    """What an observation writes does not depend on how much there is already."""
    before = grown(events)
    written = delta(before, appended(before))
    assert [len(track.rows) for track in written.tracks] == [1] * len(Track)
    assert all(track.below is None and track.above is None for track in written.tracks)


@pytest.mark.parametrize("events", [10, 1000])
def test_a_trimmed_front_deletes_and_writes_no_kept_row(events: int) -> None:
    """A rolling STM costs one range and one new row of each track."""
    before = grown(events)
    longer = appended(before)
    state = longer.state
    after = replace(
        longer,
        state=replace(
            state,
            stm=state.stm[1:],
            event_times=state.event_times[1:],
            emotives=state.emotives[1:],
            metadata=state.metadata[1:],
        ),
        operations=longer.operations[1:],
    )
    written = {track.track: track for track in delta(before, after).tracks}
    assert {name: len(track.rows) for name, track in written.items()} == dict.fromkeys(Track, 1)
    assert {name: track.below for name, track in written.items()} == {
        Track.EVENTS: 2,
        Track.EMOTIVES: 2,
        Track.METADATA: 2,
        Track.VECTORS: None,
        Track.OPERATIONS: 2,
    }
    assert all(track.above is None for track in written.values())


def test_an_emptied_session_deletes_ranges_only() -> None:
    """Learning or clearing a long STM writes a head and no row."""
    before = grown(1000)
    written = delta(before, replace(before, state=EMPTY))
    assert [(track.below, track.above, track.rows) for track in written.tracks] == [(None, -1, ())] * 4


def test_what_did_not_change_is_not_written() -> None:
    """A commit that only remembers an operation writes that row alone."""
    before = grown(5)
    operation = Operation(number=6, key="k", body_hash="h", reply="{}")
    written = delta(before, replace(before, operations=(*before.operations, operation)))
    assert written.head is None
    assert [track.track for track in written.tracks] == [Track.OPERATIONS]


def test_equal_values_of_other_types_are_rewritten() -> None:
    """1, 1.0 and True at the same place are told apart, though they are equal."""
    lives = [
        SessionRecord(
            session_id="s",
            incarnation="1",
            state=SessionState(time=1, metadata=((1, {"x": value}),)),
            overrides=(),
            operations=(),
        )
        for value in (1, 1.0, True)
    ]
    assert repr(stored_after(*lives)) == repr(lives[-1])


def test_documents_of_another_schema_version_are_refused() -> None:
    """A document that a later version wrote is not guessed at."""
    pattern = Pattern(name="n", events=(("a",),), frequency=1, metadata={})
    document = documents.pattern_document(pattern)
    assert documents.pattern_from("n", document) == pattern
    with pytest.raises(StoreUnavailable, match="schema version 2"):
        documents.pattern_from("n", {**document, "v": 2})
    head = delta(None, grown(0)).head
    assert head is not None
    with pytest.raises(StoreUnavailable, match="schema version 2"):
        documents.session_record("s", head.replace('"v":1', '"v":2'), {})


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"v":1}', '{"v":1,"events":3,"frequency":1}'])
def test_damaged_documents_are_an_error_of_the_store(text: str) -> None:
    """What cannot be read is named, and is nobody's fault but the store's."""
    with pytest.raises(StoreUnavailable, match="pattern 'n'"):
        documents.pattern_from_text("n", text)
    with pytest.raises(StoreUnavailable, match="session 's'"):
        documents.session_record("s", text, {})


NAMES = st.sampled_from("abc")
CHANGES = st.lists(
    st.builds(
        LtmChange,
        cleared=st.sampled_from([False, False, False, True]),
        put=st.lists(
            st.builds(
                Pattern, name=NAMES, events=st.just((("x", "y"),)), frequency=st.integers(1, 9), metadata=st.just({})
            ),
            max_size=2,
        ).map(tuple),
        deleted=st.lists(NAMES, max_size=2).map(tuple),
        forgotten=st.lists(NAMES, max_size=2).map(tuple),
        dimensionless=st.sampled_from([False, False, True]),
        vectors=st.lists(st.tuples(NAMES, st.just((1.0,))), max_size=2).map(tuple),
        dimension=st.none() | st.just(1),
    ),
    max_size=6,
)


@given(CHANGES)
def test_many_ltm_changes_fold_into_one(changes: list[LtmChange]) -> None:
    """Written as one, changes leave what they leave one after the other."""
    together, stepwise = MemoryDisk(), MemoryDisk()
    for disk in (together, stepwise):
        disk.take_over("p")
    together.write("p", Batch(sessions=(), ltm=changes), epoch=1)
    for change in changes:
        stepwise.write("p", Batch(sessions=(), ltm=(change,)), epoch=1)
    assert together.processor("p") == stepwise.processor("p")
    folded = documents.folded(changes)
    assert len({pattern.name for pattern in folded.put}) == len(folded.put)

"""What every store must do; each test runs over all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import LtmChange
from kato_node.domain.state import EMPTY, SessionState
from kato_node.store.base import REPLY_CHARACTERS_MAX, Fenced, SessionRecord, Store, StoreUnavailable
from tests.conformance.node.stores import RICH, MakeStore, OpenStore, batch, operation, record, write

PATTERN = Pattern(
    name="0f",
    events=(("", "é"), ("nul\0", "a", "a")),
    frequency=3,
    emotives=({"joy": 0.1 + 0.2}, {"fear": -1e100, "joy": 5e-324}),
    metadata={"tag": ("1", "None", "[1, 2]"), "ä b": ("x",)},
    imports=("0a", "1b"),
)


def pattern(name: str, frequency: int = 1) -> Pattern:
    """Return a small pattern."""
    return Pattern(name=name, events=(("a",), (name,)), frequency=frequency, metadata={})


async def patterns(store: Store) -> dict[str, int]:
    """Return the stored patterns' frequencies by name."""
    return {found.name: found.frequency async for found in store.load_patterns()}


async def vectors(store: Store) -> dict[str, tuple[float, ...]]:
    """Return the stored vectors by symbol."""
    return {symbol: values async for symbol, values in store.load_vectors()}


async def written(store: Store, after: SessionRecord, *, epoch: int) -> SessionRecord:
    """Store a new session, and return what is then stored of it."""
    await store.commit(batch(write(None, after)), epoch=epoch)
    stored = await store.load_session(after.session_id)
    assert stored is not None
    return stored


async def test_each_bind_takes_the_next_epoch(open_store: OpenStore) -> None:
    """The epoch is 0 before the first bind, then one more with each, whoever binds."""
    first = await open_store()
    assert await first.read_epoch() == 0
    assert (await first.bind()).epoch == 1
    second = await open_store()
    bound = await second.bind()
    assert (bound.processor_id, bound.epoch, bound.dimension) == ("p", 2, None)
    assert await first.read_epoch() == 2


async def test_a_session_comes_back_as_it_was(open_store: OpenStore) -> None:
    """Every value of a session comes back equal, and of the same types, through a store opened anew."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    rich = record(
        state=RICH,
        overrides=(("recall_threshold", 1.0), ("sort_symbols", False), ("vector_distance_max", None)),
        operations=(operation(7), operation(8, '{"text": "é\\u0000"}')),
    )
    assert repr(await written(store, rich, epoch=epoch)) == repr(rich)
    again = await open_store()
    assert await again.load_session("s") == rich


async def test_an_unknown_session_is_none(open_store: OpenStore) -> None:
    """A session that was never stored loads as None."""
    store = await open_store()
    await store.bind()
    assert await store.load_session("s") is None
    assert await store.load_reply("s", 1) is None
    assert list(await store.session_ids()) == []


def moment(state: SessionState) -> SessionState:
    """Return the state after one more observation with everything in it."""
    time = state.time + 1
    return replace(
        state,
        stm=(*state.stm, (f"symbol {time}",)),
        event_times=(*state.event_times, time),
        time=time,
        emotives=(*state.emotives, (time, {"joy": float(time)})),
        metadata=(*state.metadata, (time, {"at": time})),
        vectors=(*state.vectors, (float(time),)),
        stm_bytes=-1,
        carried_bytes=-1,
    )


def trimmed(state: SessionState, keep: int) -> SessionState:
    """Return the state with only its newest moments."""
    oldest = state.event_times[-keep]
    return replace(
        state,
        stm=state.stm[-keep:],
        event_times=state.event_times[-keep:],
        emotives=tuple(entry for entry in state.emotives if entry[0] >= oldest),
        metadata=tuple(entry for entry in state.metadata if entry[0] >= oldest),
        vectors=(),
        stm_bytes=-1,
        carried_bytes=-1,
    )


async def test_a_life_of_commits_is_stored_step_by_step(open_store: OpenStore) -> None:
    """Growing, rolling, clearing and starting over: after each commit the store holds exactly the session."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    states = [EMPTY]
    for _ in range(4):
        states.append(moment(states[-1]))
    states += [trimmed(states[-1], 2)]
    states += [moment(states[-1]), EMPTY]
    states += [moment(EMPTY), moment(moment(EMPTY)), replace(RICH, time=20)]
    before = None
    for number, state in enumerate(states):
        after = record(state=state, operations=tuple(operation(n) for n in range(max(number - 2, 1), number + 1)))
        await store.commit(batch(write(before, after)), epoch=epoch)
        assert await store.load_session("s") == after
        before = after


async def test_what_goes_at_either_end_leaves_what_is_between(open_store: OpenStore) -> None:
    """Rows that are dropped at the front, at the end, or at both take none of the others along."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    events = tuple((f"{number}",) for number in range(9))
    for first, last in ((0, 5), (3, 9), (2, 7), (4, 5), (5, 5)):
        before = record(state=SessionState(stm=events, event_times=tuple(range(1, 10)), time=9))
        kept = SessionState(stm=events[first:last], event_times=tuple(range(first + 1, last + 1)), time=9)
        after = replace(before, state=kept)
        await store.commit(batch(write(None, before)), epoch=epoch)
        await store.commit(batch(write(before, after)), epoch=epoch)
        assert await store.load_session("s") == after


async def test_an_ended_session_leaves_nothing_and_takes_nobody_along(open_store: OpenStore) -> None:
    """Deleting a session deletes its documents alone, however alike the ids are."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    names = ["a", "a-", "a.b", "a0", "a:", "aa", "A", "b"]
    records = {name: record(name, RICH, operations=(operation(1),)) for name in names}
    await store.commit(batch(*(write(None, one) for one in records.values())), epoch=epoch)
    await store.commit(batch(write(records["a"], None)), epoch=epoch)
    assert list(await store.session_ids()) == sorted(set(names) - {"a"})
    assert await store.load_session("a") is None
    assert await store.load_reply("a", 1) is None
    for name in set(names) - {"a"}:
        assert await store.load_session(name) == records[name]
    assert await written(store, record("a"), epoch=epoch) == record("a")


async def test_a_session_written_as_new_replaces_what_there_was(open_store: OpenStore) -> None:
    """A write that says that the session is new leaves no row of an earlier one."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    await written(store, record(state=RICH, operations=(operation(1),)), epoch=epoch)
    assert await written(store, record(incarnation="2"), epoch=epoch) == record(incarnation="2")


async def test_a_fenced_writer_writes_nothing(open_store: OpenStore) -> None:
    """Once another has bound, a commit of the earlier epoch raises Fenced and leaves no trace."""
    old = await open_store()
    epoch = (await old.bind()).epoch
    await written(old, record(), epoch=epoch)
    new = await open_store()
    newer = (await new.bind()).epoch
    change = LtmChange(put=(PATTERN,), vectors=(("VCTR|1", (1.0,)),), dimension=1)
    with pytest.raises(Fenced):
        await old.commit(batch(write(record(), record(state=RICH)), ltm=(change,)), epoch=epoch)
    with pytest.raises(Fenced):
        await old.commit(batch(), epoch=epoch)
    assert await new.load_session("s") == record()
    assert (await patterns(new), await vectors(new)) == ({}, {})
    await new.commit(batch(), epoch=newer)
    assert await old.read_epoch() == newer


async def test_only_a_bound_processor_can_be_written(open_store: OpenStore) -> None:
    """Before the first bind there is no epoch that a commit could name."""
    store = await open_store()
    with pytest.raises(Fenced):
        await store.commit(batch(write(None, record())), epoch=0)


async def test_patterns_and_vectors_come_back_as_they_were(open_store: OpenStore) -> None:
    """A pattern and a vector come back bit for bit; the dimension with the next bind."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    values = (0.1 + 0.2, -1e100, 5e-324)
    change = LtmChange(put=(PATTERN,), vectors=(("VCTR|1", values),), dimension=3)
    await store.commit(batch(ltm=(change,)), epoch=epoch)
    again = await open_store()
    assert [repr(found) async for found in again.load_patterns()] == [repr(PATTERN)]
    assert await vectors(again) == {"VCTR|1": values}
    assert (await again.bind()).dimension == 3


async def test_ltm_changes_apply_in_their_order(open_store: OpenStore) -> None:
    """Within one transaction later changes win over earlier ones, clear-all and deletions included."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    await store.commit(batch(ltm=(LtmChange(put=(pattern("a"), pattern("b"), pattern("c"))),)), epoch=epoch)
    changes = (
        LtmChange(put=(pattern("a", 2),), vectors=(("VCTR|1", (1.0,)),), dimension=1),
        LtmChange(put=(pattern("a", 3), pattern("d"))),
        LtmChange(deleted=("b", "d", "unknown")),
        LtmChange(put=(pattern("b", 9),)),
    )
    await store.commit(batch(ltm=changes), epoch=epoch)
    assert await patterns(store) == {"a": 3, "b": 9, "c": 1}
    cleared = (LtmChange(put=(pattern("e"),)), LtmChange(cleared=True), LtmChange(put=(pattern("f"),)))
    await store.commit(batch(ltm=cleared), epoch=epoch)
    assert (await patterns(store), await vectors(store)) == ({"f": 1}, {})
    assert (await store.bind()).dimension is None


async def test_vectors_are_forgotten_one_by_one(open_store: OpenStore) -> None:
    """A forgotten vector is gone, one learned again in that transaction is not; without any there is no dimension."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    learned = LtmChange(vectors=tuple((f"VCTR|{number}", (float(number),)) for number in range(3)), dimension=1)
    await store.commit(batch(ltm=(learned,)), epoch=epoch)
    changes = (LtmChange(forgotten=("VCTR|0", "VCTR|1", "VCTR|unknown")), LtmChange(vectors=(("VCTR|1", (1.0,)),)))
    await store.commit(batch(ltm=changes), epoch=epoch)
    assert await vectors(store) == {"VCTR|1": (1.0,), "VCTR|2": (2.0,)}
    await store.commit(batch(ltm=(LtmChange(forgotten=("VCTR|1", "VCTR|2"), dimensionless=True),)), epoch=epoch)
    assert await vectors(store) == {}
    assert (await store.bind()).dimension is None


async def test_many_patterns_load(open_store: OpenStore) -> None:
    """More patterns than a driver hands over at once all load, each once."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    names = [f"{number:040x}" for number in range(2_500)]
    for first in range(0, len(names), 500):
        part = tuple(map(pattern, names[first : first + 500]))
        await store.commit(batch(ltm=(LtmChange(put=part),)), epoch=epoch)
    assert await patterns(store) == dict.fromkeys(names, 1)


async def test_one_transaction_holds_many_sessions_and_the_ltm(open_store: OpenStore) -> None:
    """Whatever a batch holds is stored together."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    records = [record(f"s{number}", RICH) for number in range(20)]
    learned = tuple(LtmChange(put=(pattern(f"{number}"),)) for number in range(20))
    await store.commit(batch(*(write(None, one) for one in records), ltm=learned), epoch=epoch)
    assert [await store.load_session(one.session_id) for one in records] == records
    assert len(await patterns(store)) == 20


async def test_a_long_reply_stays_in_the_store(open_store: OpenStore) -> None:
    """A long reply is not loaded with its session, is read back whole, and survives commits after it."""
    store = await open_store()
    epoch = (await store.bind()).epoch
    long = operation(2, '{"text": "' + "é\U0001f642x" * REPLY_CHARACTERS_MAX + '"}')
    stored = await written(store, record(operations=(operation(1), long)), epoch=epoch)
    assert stored.operations == (operation(1), replace(long, reply=None))
    after = replace(stored, operations=(*stored.operations[1:], operation(3)))
    await store.commit(batch(write(stored, after)), epoch=epoch)
    assert await store.load_session("s") == after
    assert await store.load_reply("s", 2) == long.reply
    assert await store.load_reply("s", 3) == "{}"
    assert await store.load_reply("s", 1) is None


async def test_processors_share_nothing(open_store: OpenStore) -> None:
    """Two processors have epochs, sessions, patterns and vectors of their own, however alike their ids are."""
    names = ("p", "p0", "p.", "P")
    stores = [await open_store(name) for name in names]
    change = LtmChange(put=(PATTERN,), vectors=(("VCTR|1", (1.0,)),), dimension=1)
    for store in stores:
        await store.bind()
        await store.commit(batch(write(None, record(state=RICH)), ltm=(change,)), epoch=1)
    await stores[0].commit(batch(write(record(state=RICH), None), ltm=(LtmChange(cleared=True),)), epoch=1)
    await stores[0].bind()
    assert [list(await store.session_ids()) for store in stores] == [[], ["s"], ["s"], ["s"]]
    assert [await patterns(store) for store in stores] == [{}, {"0f": 3}, {"0f": 3}, {"0f": 3}]
    assert [await vectors(store) for store in stores] == [{}, *[{"VCTR|1": (1.0,)}] * 3]
    assert [await store.read_epoch() for store in stores] == [2, 1, 1, 1]


async def test_a_closed_store_is_out_of_reach(make_store: MakeStore) -> None:
    """Close may be called again and again, before open too; afterwards there is nothing to be had."""
    await make_store("p").close()
    store = make_store("p")
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.read_epoch()

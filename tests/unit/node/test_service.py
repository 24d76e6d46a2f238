"""The mutating operations: what they apply, in which order, and what a failed one leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from kato_node.domain.config import DEFAULT
from kato_node.domain.errors import MemoryTooLarge, PatternNotFound, ValidationFailed, VectorDimensionMismatch
from kato_node.domain.learn import display_name, pattern_name
from kato_node.domain.limits import Limits
from kato_node.errors import SessionNotFound, TooManyCalls, TooManySessions, WrongIncarnation, WrongNode
from kato_node.node import BindSpec, Opening
from kato_node.service import Listener
from kato_node.sessions import CHECKPOINTS_MAX, SESSIONS_MAX, UNANSWERED_MAX
from kato_node.store.base import StoreUnavailable
from kato_node.store.memory import MemoryDisk
from tests.unit.node.running import (
    PROCESSOR,
    answers,
    frequency,
    gather,
    observe_all,
    running,
    seen,
    stm,
    stored,
    until,
)

AB = display_name(pattern_name((("a",), ("b",))))


def listener(heard: list[str]) -> Listener:
    """Return what writes down the names that it hears, and the end."""
    return Listener(learned=heard.append, ended=lambda: heard.append("ended"))


async def test_observe_replies_as_published() -> None:
    """The reply to observe says where the session stands; a unique_id is made up if none is given."""
    async with running() as node:
        first = await node.service.observe(None, seen("b", "a"))
        assert str(first.pop("unique_id")).startswith("obs-")
        assert first == {
            "status": "okay",
            "processor_id": PROCESSOR,
            "session_id": "default",
            "auto_learned_pattern": None,
            "time": 1,
            "stm_length": 1,
        }
        second = await node.service.observe(None, seen(unique_id="mine"))
        assert (second["unique_id"], second["time"], second["stm_length"]) == ("mine", 2, 1)
        assert await stm(node) == [["a", "b"]]


async def test_learn_replies_with_the_name() -> None:
    """Learning names the pattern, empties the STM and counts; too little to learn is no error."""
    async with running() as node:
        await observe_all(node, None, "a", "b")
        assert await node.service.learn(None) == {
            "pattern_name": AB,
            "processor_id": PROCESSOR,
            "session_id": "default",
            "message": f"Learned pattern {AB}",
        }
        assert await stm(node) == []
        await observe_all(node, None, "a")
        reply = await node.service.learn(None)
        assert (reply["pattern_name"], reply["message"]) == ("", "Insufficient data for learning")
        assert await stm(node) == []
        await observe_all(node, None, "a", "b")
        await node.service.learn(None)
        assert await frequency(node, AB) == 2


async def test_an_auto_learned_pattern_is_in_the_reply_and_in_the_ltm() -> None:
    """With max_pattern_length the observation that fills the STM learns it."""
    async with running(defaults=DEFAULT.updated({"max_pattern_length": 2})) as node:
        await observe_all(node, None, "a")
        reply = await node.service.observe(None, seen("b"))
        assert (reply["auto_learned_pattern"], reply["stm_length"], reply["time"]) == (AB, 0, 2)
        assert await frequency(node, AB) == 1


async def test_clear_stm_empties_the_session_alone() -> None:
    """clear-stm resets the session's state and time; its config and the LTM stay."""
    async with running() as node:
        await observe_all(node, None, "a", "b")
        await node.service.learn(None)
        await node.service.update_genes(None, {"persistence": 7})
        await observe_all(node, None, "c")
        reply = await node.service.clear_stm(None)
        assert reply == {
            "status": "okay",
            "message": "stm-cleared",
            "processor_id": PROCESSOR,
            "session_id": "default",
        }
        status = await node.reads.status(None)
        assert (status["stm_length"], status["time"], status["patterns"]) == (0, 0, 1)
        assert (await node.reads.gene(None, "persistence"))["gene_value"] == 7
        assert (await node.reads.percept_data(None))["percept_data"] == {}


async def test_clear_all_empties_the_ltm_and_no_other_session() -> None:
    """clear-all deletes every pattern and the vector dimension; other sessions keep their STM."""
    async with running(sessions=["one", "two"]) as node:
        await node.service.observe("one", seen("a", "b", vectors=[[1.0, 2.0]]))
        await node.service.learn("one")
        await observe_all(node, "one", "x")
        await observe_all(node, "two", "y")
        assert (await node.service.clear_all("one"))["message"] == "all-cleared"
        assert (await stm(node, "one"), await stm(node, "two")) == ([], [["y"]])
        assert (await node.reads.status("one"))["patterns"] == 0
        await node.service.observe("one", seen("a", vectors=[[1.0, 2.0, 3.0]]))
        await node.service.learn("one")
        assert (await node.reads.status("one"))["patterns"] == 1


async def test_genes_change_for_one_session_wholly_or_not_at_all() -> None:
    """An update with a bad value changes nothing; a good one is this session's alone and outlives the node."""
    disk = MemoryDisk()
    async with running(disk, sessions=["one", "two"]) as node:
        with pytest.raises(ValidationFailed):
            await node.service.update_genes("one", {"persistence": 7, "recall_threshold": 2.0})
        assert (await node.reads.genes("one"))["genes"] == DEFAULT.as_dict()
        reply = await node.service.update_genes("one", {"persistence": 7, "recall_threshold": 1})
        expected = DEFAULT.updated({"persistence": 7, "recall_threshold": 1.0}).as_dict()
        assert reply == {
            "status": "okay",
            "message": "genes-updated",
            "genes": expected,
            "processor_id": PROCESSOR,
            "session_id": "one",
        }
        assert (await node.reads.genes("two"))["genes"] == DEFAULT.as_dict()
    async with running(disk, defaults=DEFAULT.updated({"smoothness": 9})) as node:
        assert (await node.reads.genes("one"))["genes"] == {**expected, "smoothness": 9}
        assert repr((await node.reads.gene("one", "recall_threshold"))["gene_value"]) == "1.0"


async def test_an_invalid_observation_applies_nothing() -> None:
    """What breaks the rules is refused before anything happens, and the field is named."""
    async with running(limits=Limits(symbols_per_event_max=2)) as node:
        with pytest.raises(ValidationFailed) as refused:
            await node.service.observe(None, seen("a", "b", "c"))
        assert refused.value.errors[0][0] == "strings"
        assert (await node.reads.status(None))["time"] == 0


async def test_the_stm_has_its_limits() -> None:
    """An observation beyond the STM's limit is refused and the STM stays as it was."""
    async with running(limits=Limits(stm_events_max=2)) as node:
        await observe_all(node, None, "a", "b")
        with pytest.raises(MemoryTooLarge, match="learn or clear-stm"):
            await node.service.observe(None, seen("c"))
        assert await stm(node) == [["a"], ["b"]]


async def test_calls_of_one_session_apply_in_the_order_of_arrival() -> None:
    """Calls that are all under way at once are applied as they came."""
    async with running() as node:
        symbols = [f"{number:02}" for number in range(50)]
        replies = await asyncio.gather(*(node.service.observe(None, seen(symbol)) for symbol in symbols))
        assert [reply["time"] for reply in replies] == list(range(1, 51))
        assert await stm(node) == [[symbol] for symbol in symbols]


async def test_a_hundred_interleaved_sessions_keep_to_themselves() -> None:
    """100 sessions, 20 observations each, all at once: each STM is exactly its own, in its order, stored too."""
    disk = MemoryDisk()
    names = [f"s{number}" for number in range(100)]
    async with running(disk, sessions=names) as node:

        async def live(name: str) -> None:
            for turn in range(20):
                fields = {"emotives": {name: float(turn)}, "metadata": {"who": name}}
                await node.service.observe(name, seen(f"{name}:{turn}", **fields))

        await asyncio.gather(*map(live, names))
        before = {name: await answers(node, name) for name in names}
        for name in names:
            assert await stm(node, name) == [[f"{name}:{turn}"] for turn in range(20)]
    async with running(disk) as node:
        for name in names:
            assert await stm(node, name) == [[f"{name}:{turn}"] for turn in range(20)]
            assert repr(await answers(node, name)) == repr(before[name])


async def test_waiting_changes_share_one_transaction() -> None:
    """While one commit is under way, all changes that come wait together and then take one transaction."""
    disk = MemoryDisk()
    names = [f"s{number}" for number in range(30)]
    async with running(disk, sessions=names) as node:
        done = len(disk.commits)
        disk.gate.clear()
        first = asyncio.create_task(node.service.observe(names[0], seen("x")))
        for _ in range(20):
            await asyncio.sleep(0)
        others = [asyncio.create_task(node.service.observe(name, seen("x"))) for name in names[1:]]
        for _ in range(20):
            await asyncio.sleep(0)
        disk.gate.set()
        await asyncio.gather(first, *others)
        assert [len(batch.sessions) for batch in disk.commits[done:]] == [1, 29]


async def test_two_learns_of_one_pattern_in_one_transaction_both_count() -> None:
    """Each change of a batch sees those before it: nothing is lost when two sessions learn the same at once."""
    disk = MemoryDisk()
    async with running(disk, sessions=["one", "two"]) as node:
        for name in ("one", "two"):
            await observe_all(node, name, "a", "b")
        done = len(disk.commits)
        await asyncio.gather(node.service.learn("one"), node.service.learn("two"))
        assert len(disk.commits) == done + 1
        assert await frequency(node, AB) == 2
    async with running(disk) as node:
        assert await frequency(node, AB) == 2


async def test_a_rejected_change_takes_no_other_of_its_batch_along() -> None:
    """Of two first vectors of different length in one batch the earlier wins; the other's session stays as it was."""
    disk = MemoryDisk()
    names = ["one", "two", "three"]
    async with running(disk, sessions=names) as node:
        await node.service.observe("one", seen("a", vectors=[[1.0, 2.0]]))
        await node.service.observe("two", seen("a", vectors=[[1.0, 2.0, 3.0]]))
        done = len(disk.commits)
        learned, rejected, observed = await gather(
            node.service.learn("one"), node.service.learn("two"), node.service.observe("three", seen("x"))
        )
        assert len(disk.commits) == done + 1
        assert isinstance(learned, dict)
        assert isinstance(observed, dict)
        assert isinstance(rejected, VectorDimensionMismatch)
        assert rejected.details == {"expected": 2, "actual": 3}
        assert len(await stm(node, "two")) == 1
        assert await stm(node, "one") == []
        with pytest.raises(VectorDimensionMismatch):
            await node.service.observe("three", seen(vectors=[[1.0]]))
    record = await stored(disk, "two")
    assert record is not None
    assert record.state.vectors == ((1.0, 2.0, 3.0),)


async def test_a_failed_write_leaves_everything_as_it_was() -> None:
    """When the store refuses, session and LTM are unchanged, in memory and in the store, and a new try succeeds."""
    disk = MemoryDisk()
    async with running(disk) as node:
        await observe_all(node, None, "a", "b")
        before = await answers(node)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: node.service.observe(None, seen("c")),
            lambda: node.service.learn(None),
            lambda: node.service.clear_stm(None),
            lambda: node.service.clear_all(None),
            lambda: node.service.update_genes(None, {"persistence": 7}),
        ]
        for call in calls:
            disk.fail_next_commit(StoreUnavailable("The disk is full."))
            with pytest.raises(StoreUnavailable) as refused:
                await call()
            assert (refused.value.code, refused.value.retry_after_s) == ("STORAGE_UNAVAILABLE", 1.0)
            assert repr(await answers(node)) == repr(before)
            record = await stored(disk)
            assert record is not None
            assert [list(event) for event in record.state.stm] == [["a"], ["b"]]
        await node.service.learn(None)
        assert await frequency(node, AB) == 1


async def test_the_default_session_is_made_at_its_first_use() -> None:
    """On a shared processor a call without a session means `default`, which reads as empty until it is used."""
    disk = MemoryDisk()
    async with running(disk) as node:
        assert await stm(node) == []
        assert (await node.reads.status(None))["sessions"] == 0
        assert await stored(disk) is None
        await node.service.observe(None, seen("a"))
        assert list(node.service.session_ids) == ["default"]
        assert await stm(node, "default") == [["a"]]


async def test_a_node_of_one_session_means_that_one() -> None:
    """On a processor that is one session's own, a call without a session means it, and there is no `default`."""
    spec = BindSpec(processor_id=PROCESSOR, own_session=True, session=Opening(session_id="mine", incarnation="1"))
    async with running(spec=spec) as node:
        reply = await node.service.observe(None, seen("a"))
        assert reply["session_id"] == "mine"
        assert node.service.own_session == "mine"
        with pytest.raises(SessionNotFound):
            await node.service.observe("default", seen("a"))


async def test_an_unknown_session_is_refused() -> None:
    """A session that was never opened is not made by a call."""
    async with running() as node:
        for call in (
            node.service.observe("nobody", seen("a")),
            node.service.learn("nobody"),
            node.reads.stm("nobody"),
            node.reads.predictions("nobody"),
        ):
            with pytest.raises(SessionNotFound):
                await call
        with pytest.raises(SessionNotFound):
            node.service.listen("nobody", listener([]))


async def test_opening_is_idempotent() -> None:
    """Opening again finds the session as it is, whatever config is sent; another incarnation starts afresh."""
    disk = MemoryDisk()
    async with running(disk) as node:
        first = await node.service.open_session("s", incarnation="1", overrides={"persistence": 7})
        assert (first.created, first.config.persistence, first.stm_length, first.time) == (True, 7, 0, 0)
        await observe_all(node, "s", "a")
        again = await node.service.open_session("s", incarnation="1", overrides={"persistence": 9})
        assert (again.created, again.config.persistence, again.stm_length, again.time) == (False, 7, 1, 1)
        assert await node.reads.session("s") == again
    async with running(disk) as node:
        other = await node.service.open_session("s", incarnation="2", overrides={})
        assert (other.created, other.config.persistence, other.stm_length) == (True, DEFAULT.persistence, 0)
        assert await stm(node, "s") == []


async def test_a_bad_config_opens_no_session() -> None:
    """Overrides are checked before anything is written."""
    async with running() as node:
        with pytest.raises(ValidationFailed):
            await node.service.open_session("s", incarnation="1", overrides={"persistence": 0})
        assert list(node.service.session_ids) == []


async def test_closing_deletes_the_session_and_keeps_its_patterns() -> None:
    """A closed session is unknown, in the store too; closing it again is no error; what it learned stays."""
    disk = MemoryDisk()
    async with running(disk, sessions=["s"]) as node:
        await observe_all(node, "s", "a", "b")
        await node.service.learn("s")
        await node.service.close_session("s", incarnation="1")
        await node.service.close_session("s", incarnation="1")
        with pytest.raises(SessionNotFound):
            await node.reads.stm("s")
        assert list(node.service.session_ids) == []
        assert await stored(disk, "s") is None
        assert await frequency(node, AB) == 1
        assert (await node.service.open_session("s", incarnation="1", overrides={})).created


async def test_calls_behind_a_close_find_no_session() -> None:
    """Calls that wait behind the close of their session are refused, also if an opening that waits there makes a new
    one of its id; that one stays open and is empty.
    """
    async with running(sessions=["s"]) as node:
        results = await gather(
            node.service.observe("s", seen("a")),
            node.service.close_session("s", incarnation="1"),
            node.service.observe("s", seen("b")),
            node.service.open_session("s", incarnation="1", overrides={}),
            node.service.observe("s", seen("c")),
        )
        assert [type(result) for result in results[2::2]] == [SessionNotFound, SessionNotFound]
        assert await stm(node, "s") == []


async def test_a_close_is_of_one_incarnation() -> None:
    """A close that names another incarnation leaves the session of that id as it is."""
    disk = MemoryDisk()
    async with running(disk) as node:
        await node.service.open_session("s", incarnation="2", overrides={})
        await observe_all(node, "s", "a")
        await node.service.close_session("s", incarnation="1")
        assert await stm(node, "s") == [["a"]]
        await node.service.close_session("s", incarnation="2")
        assert await stored(disk, "s") is None


async def test_calls_behind_another_incarnation_are_not_its_own() -> None:
    """A call that waits while its session is replaced is refused: it was meant for the one before."""
    async with running(sessions=["s"]) as node:
        results = await gather(
            node.service.observe("s", seen("a")),
            node.service.open_session("s", incarnation="2", overrides={}),
            node.service.observe("s", seen("b")),
        )
        assert isinstance(results[2], SessionNotFound)
        assert await stm(node, "s") == []


async def test_a_session_is_met_by_its_incarnation() -> None:
    """Whoever means another incarnation than the one there is refused, and sent back to the gateway."""
    async with running(sessions=["s"]) as node:
        assert await node.reads.meet("s", None) == await node.reads.meet("s", "1") == "1"
        assert await node.reads.meet(None, None) == ""
        with pytest.raises(WrongIncarnation):
            await node.reads.meet("s", "2")
        with pytest.raises(SessionNotFound):
            await node.reads.meet("nobody", "1")


async def test_checkpoints_are_one_incarnations() -> None:
    """A unique_id of the session before does not say what the session of today was predicted from."""
    async with running(sessions=["s"]) as node:
        await observe_all(node, "s", "a", "b", "c")
        await node.service.learn("s")
        await observe_all(node, "s", "a")
        await node.service.observe("s", seen("b", unique_id="u"))
        assert (await node.reads.predictions("s", "u"))["count"] == 1
        await node.service.open_session("s", incarnation="2", overrides={})
        assert (await node.reads.predictions("s", "u"))["count"] == 0


async def test_a_unique_id_used_again_is_the_newest() -> None:
    """Of the hundred that are remembered, the one used longest ago goes first, not the one named first."""
    async with running() as node:
        await observe_all(node, None, "a", "b", "c")
        await node.service.learn(None)
        await observe_all(node, None, "a")
        await node.service.observe(None, seen("b", unique_id="kept"))
        for number in range(CHECKPOINTS_MAX - 1):
            await node.service.observe(None, seen(unique_id=f"u{number}"))
        await node.service.observe(None, seen(unique_id="kept"))
        await node.service.observe(None, seen(unique_id="one more"))
        assert (await node.reads.predictions(None, "kept"))["count"] == 1
        assert (await node.reads.predictions(None, "u0"))["count"] == 0
        assert (await node.reads.predictions(None, "u1"))["count"] == 1


async def test_a_processor_has_so_many_sessions() -> None:
    """Beyond its limit of sessions a processor opens none, until one is closed."""
    async with running() as node:
        names = [f"s{number}" for number in range(SESSIONS_MAX)]
        await asyncio.gather(*(node.service.open_session(name, incarnation="1", overrides={}) for name in names))
        with pytest.raises(TooManySessions):
            await node.service.open_session("more", incarnation="1", overrides={})
        assert not (await node.service.open_session("s0", incarnation="1", overrides={})).created
        await node.service.close_session("s0", incarnation="1")
        assert (await node.service.open_session("more", incarnation="1", overrides={})).created


async def test_a_session_has_so_many_unanswered_calls() -> None:
    """One call too many is refused at once; those before it are all applied."""
    async with running() as node:
        calls = [node.service.observe(None, seen(f"{number:02}")) for number in range(UNANSWERED_MAX + 1)]
        results = await gather(*calls)
        assert [type(result) for result in results] == [dict] * UNANSWERED_MAX + [TooManyCalls]
        assert len(await stm(node)) == UNANSWERED_MAX
        await node.service.observe(None, seen("again"))


async def test_subscribers_hear_of_what_their_session_learned() -> None:
    """Each learned pattern of the session is told once, after its commit, until the subscription ends."""
    disk = MemoryDisk()
    heard: list[str] = []
    async with running(disk, sessions=["one", "two"]) as node:
        unsubscribe = node.service.listen("one", listener(heard))
        for name in ("one", "two"):
            await observe_all(node, name, "a", "b")
            await node.service.learn(name)
        await observe_all(node, "one", "c", "d")
        disk.fail_next_commit(StoreUnavailable("no"))
        await gather(node.service.learn("one"))
        await until(lambda: bool(heard))
        assert heard == [AB]
        unsubscribe()
        await node.service.learn("one")
    assert heard == [AB]


@pytest.mark.parametrize("replaced", [True, False])
async def test_listeners_hear_of_their_sessions_end(replaced: bool) -> None:
    """When a session is closed or replaced its listeners hear so, once, and nothing of what has its id afterwards."""
    heard: list[str] = []
    async with running(sessions=["s"]) as node:
        stop = node.service.listen("s", listener(heard))
        if not replaced:
            await node.service.close_session("s", incarnation="1")
        await node.service.open_session("s", incarnation="2", overrides={})
        await observe_all(node, "s", "a", "b")
        await node.service.learn("s")
        await until(lambda: bool(heard))
        stop()
    assert heard == ["ended"]


async def test_a_closed_session_that_was_listened_to_counts_no_more() -> None:
    """Listeners keep no place for a session that has ended."""
    async with running() as node:
        for number in range(SESSIONS_MAX + 1):
            await node.service.open_session(f"s{number}", incarnation="1", overrides={})
            node.service.listen(f"s{number}", listener([]))
            await node.service.close_session(f"s{number}", incarnation="1")
        assert list(node.service.session_ids) == []


async def test_neighbours_join_the_event_when_asked_for() -> None:
    """With vector_neighbors the nearest learned vectors' symbols are in the event; without, only its own."""
    async with running() as node:
        for vector in ([0.0, 0.0], [1.0, 0.0], [9.0, 9.0]):
            await node.service.observe(None, seen("x", vectors=[vector]))
        events = await stm(node)
        symbols = [event[0] for event in events]
        await node.service.learn(None)
        await node.service.observe(None, seen(vectors=[[0.0, 0.1]]))
        assert len((await stm(node))[0]) == 1
        await node.service.update_genes(None, {"vector_neighbors": 2})
        await node.service.observe(None, seen(vectors=[[0.0, 0.1]]))
        plain, joined = await stm(node)
        assert joined == sorted({*plain, *symbols[:2]})
        with pytest.raises(VectorDimensionMismatch):
            await node.service.observe(None, seen(vectors=[[1.0]]))


async def test_unique_ids_recall_the_newest_hundred_moments() -> None:
    """Predictions by unique_id are those of that moment; older than the newest 100, or unknown, there are none."""
    async with running() as node:
        await observe_all(node, None, "a", "b", "c")
        await node.service.learn(None)
        await node.service.observe(None, seen("a", unique_id="first"))
        await node.service.observe(None, seen("b", unique_id="second"))
        now = await node.reads.predictions(None)
        await observe_all(node, None, *(f"{number}" for number in range(98)))
        assert (await node.reads.predictions(None, "second")) == now
        assert (await node.reads.predictions(None, "first"))["predictions"] == []
        assert (await node.reads.predictions(None, "unknown"))["count"] == 0
        await node.service.observe(None, seen("z", unique_id="third"))
        await node.service.clear_stm(None)
        assert (await node.reads.predictions(None, "second"))["count"] == 1
        await node.service.observe(None, seen("z", unique_id="second"))
        assert (await node.reads.predictions(None, "second"))["count"] == 0


async def test_a_unique_id_recalls_the_stm_before_its_auto_learn() -> None:
    """The observation that fills the STM is predicted from the full STM, though learning has emptied it since."""
    async with running(defaults=DEFAULT.updated({"max_pattern_length": 2})) as node:
        await observe_all(node, None, "a")
        await node.service.observe(None, seen("b", unique_id="full"))
        assert (await node.reads.predictions(None))["count"] == 0
        assert (await node.reads.predictions(None, "full"))["count"] == 1


async def test_pattern_reads() -> None:
    """A pattern is found with and without its prefix, shown with its window; an unknown one is refused."""
    async with running() as node:
        fields = {"emotives": {"joy": 1.0}, "metadata": {"tag": 1}}
        await node.service.observe(None, seen("a", **fields))
        await observe_all(node, None, "b")
        await node.service.learn(None)
        expected = {
            "name": AB,
            "pattern_data": (("a",), ("b",)),
            "length": 2,
            "frequency": 1,
            "emotives": ({"joy": 1.0},),
            "metadata": {"tag": ("1",)},
        }
        for name in (AB, AB.removeprefix("PTRN|")):
            assert await node.reads.pattern(name) == {"pattern": expected, "processor_id": PROCESSOR}
        with pytest.raises(PatternNotFound):
            await node.reads.pattern("PTRN|unknown")


async def test_cognition_is_of_the_latest_observation() -> None:
    """Cognition shows the predictions, the mean emotives and the latest event; after an empty moment no symbols."""
    async with running() as node:
        await observe_all(node, None, "a", "b", "c")
        await node.service.learn(None)
        await node.service.observe(None, seen("a", emotives={"x": 1.0}))
        await node.service.observe(None, seen("b", emotives={"x": 3.0, "y": 2.0}))
        cognition = cast("dict[str, object]", (await node.reads.cognition_data(None))["cognition_data"])
        assert cognition["predictions"] == (await node.reads.predictions(None))["predictions"]
        assert (cognition["emotives"], cognition["symbols"]) == ({"x": 2.0, "y": 2.0}, ("b",))
        assert (cognition["time"], cognition["short_term_memory"]) == (5, (("a",), ("b",)))
        await node.service.observe(None, seen())
        cognition = cast("dict[str, object]", (await node.reads.cognition_data(None))["cognition_data"])
        assert cognition["symbols"] == ()


async def test_the_node_counts_what_it_does() -> None:
    """The counters tell of what was applied, not of what was refused."""
    disk = MemoryDisk()
    async with running(disk) as node:
        await observe_all(node, None, "a", "b")
        disk.fail_next_commit(StoreUnavailable("no"))
        await gather(node.service.observe(None, seen("c")))
        await node.service.learn(None)
        await observe_all(node, None, "a", "b")
        await node.reads.predictions(None)
        metrics = await node.reads.metrics(None)
        assert metrics == {
            "observations_processed": 4,
            "patterns_learned": 1,
            "predictions_generated": 1,
            "stm_size": 2,
            "uptime_seconds": 0.0,
            "processor_id": PROCESSOR,
        }


async def test_an_ended_node_serves_no_call() -> None:
    """Whoever still holds the service of a node that has drained is sent to the session's node."""
    async with running() as node:
        service = node.service
        await node.drain()
        with pytest.raises(WrongNode):
            await service.observe(None, seen("a"))

"""What every registry keeps: documents whole, changes all or none, and one node for a processor."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest

from container_manager.spec import Address
from kato_gateway.domain.sessions import (
    LIVE_STATUSES,
    EndReason,
    Json,
    NodeRecord,
    NodeState,
    SessionRecord,
    SessionStatus,
    activated,
    bound,
    claimed,
    ended,
    hibernated,
    new_session,
    node_ended,
    pooled,
    slid,
)
from kato_gateway.registry.base import (
    Change,
    GatewayChange,
    GatewayRecord,
    Leftover,
    LeftoverChange,
    NodeChange,
    OwnerChange,
    PurgeChange,
    Registry,
    SessionChange,
    SessionQuery,
)
from tests.conformance.gateway.conftest import Another

HERE = Address(host="127.0.0.1", port=20_000)


def session(
    session_id: str, *, at_s: float = 1.0, user_id: str | None = None, on: str | None = None, owner: str | None = None
) -> SessionRecord:
    """Return a session of processor `p`, or of `on`."""
    return new_session(
        session_id,
        incarnation=f"{session_id}-1",
        at_s=at_s,
        ttl_s=60.0,
        processor_id=on or "p",
        owner=owner,
        user_id=user_id,
    )


def member(node_id: str) -> NodeRecord:
    """Return a booted node."""
    node = NodeRecord(node_id=node_id, spec_hash="h", created_at_s=1.0, changed_at_s=1.0)
    return pooled(node, internal=HERE, external=None, at_s=2.0)


def leftover(session_id: str, *, processor_id: str = "p", incarnation: str = "1") -> Leftover:
    """Return a leftover of processor `p`."""
    return Leftover(processor_id=processor_id, session_id=session_id, incarnation=incarnation)


async def add(registry: Registry, *records: SessionRecord | NodeRecord) -> None:
    """Add new documents."""
    for record in records:
        change = (
            SessionChange(before=None, after=record)
            if isinstance(record, SessionRecord)
            else NodeChange(before=None, after=record)
        )
        assert await registry.apply([change])


async def ids(registry: Registry, query: SessionQuery) -> list[str]:
    """Return the ids of the sessions that the query has."""
    return [record.session_id for record in await registry.sessions(query, limit=100)]


async def test_a_session_comes_back_as_it_was(registry: Registry) -> None:
    """Every field survives, whatever the client's own values hold."""
    free: Mapping[str, Json] = {"$a.b": [1, 2.5, None, {"ключ\x00": "\ud800"}], "": True, "big": 2**70}
    record = replace(
        session("s:1@x+y", user_id="ann", owner="acme"),
        config={"recall_threshold": 0.0, "vector_distance_max": None},
        effective_config={"persistence": 5},
        metadata=free,
        sliding=False,
    )
    await add(registry, record)
    assert await registry.session("s:1@x+y") == record
    active = activated(record, node_id="n", effective_config={"a": 1})
    assert await registry.apply([SessionChange(before=record, after=active)])
    assert await registry.session("s:1@x+y") == active
    gone = ended(active, reason=EndReason.EXPIRED, at_s=9.5)
    assert await registry.apply([SessionChange(before=active, after=gone)])
    assert await registry.session("s:1@x+y") == gone
    assert await registry.session("S:1@X+Y") is None


async def test_a_node_comes_back_as_it_was(registry: Registry) -> None:
    """Every field survives in every state."""
    creating = NodeRecord(node_id="n", spec_hash="h", created_at_s=1.5, changed_at_s=1.5)
    await add(registry, creating)
    ready = pooled(creating, internal=HERE, external=Address(host="::1", port=9), at_s=2.0)
    binding = claimed(ready, processor_id="p", at_s=3.0)
    steps = [creating, ready, binding, bound(binding, epoch=7, at_s=4.0)]
    steps.append(node_ended(steps[-1], at_s=5.0))
    for before, after in itertools.pairwise(steps):
        assert await registry.node("n") == before
        assert await registry.apply([NodeChange(before=before, after=after)])
    assert await registry.node("n") == steps[-1]
    assert await registry.node("other") is None


async def test_an_id_is_given_once(registry: Registry) -> None:
    """A second document of one id is refused, and the first stands."""
    record = session("s")
    await add(registry, record, member("n"))
    assert not await registry.apply([SessionChange(before=None, after=replace(record, incarnation="other"))])
    assert not await registry.apply([NodeChange(before=None, after=replace(member("n"), spec_hash="other"))])
    assert await registry.session("s") == record
    assert await registry.node("n") == member("n")


@pytest.mark.parametrize("stale", ["version", "incarnation", "deleted", "never"])
async def test_a_change_of_what_no_longer_stands_is_refused(registry: Registry, stale: str) -> None:
    """Compare and set: a document that changed, was replaced, deleted or never there is left as it is."""
    record = session("s")
    if stale != "never":
        await add(registry, record)
    current = {
        "version": hibernated(activated(record, node_id="n", effective_config={})),
        "incarnation": replace(record, incarnation="other"),
    }.get(stale)
    if stale in {"version", "incarnation", "deleted"}:
        assert await registry.apply([SessionChange(before=record, after=current)])
    for after in (slid(record, at_s=9.0), None):
        assert not await registry.apply([SessionChange(before=record, after=after)])
    assert await registry.session("s") == current


async def test_a_node_that_moved_on_is_left_alone(registry: Registry) -> None:
    """Nodes too are compared by their version."""
    ready = member("n")
    await add(registry, ready)
    binding = claimed(ready, processor_id="p", at_s=3.0)
    assert await registry.apply([NodeChange(before=ready, after=binding)])
    assert not await registry.apply([NodeChange(before=ready, after=node_ended(ready, at_s=3.0))])
    assert not await registry.apply([NodeChange(before=ready, after=None)])
    assert await registry.node("n") == binding


async def test_changes_are_made_all_or_none(registry: Registry) -> None:
    """One change that may not be made undoes those before it, of every kind."""
    record, ready = session("s"), member("n")
    await add(registry, record, ready)
    binding = claimed(ready, processor_id="p", at_s=3.0)
    changes: list[Change] = [
        NodeChange(before=ready, after=binding),
        SessionChange(before=record, after=None),
        SessionChange(before=None, after=session("t")),
        LeftoverChange(leftover=leftover("s"), remember=True),
        SessionChange(before=slid(record, at_s=9.0), after=None),
    ]
    assert not await registry.apply(changes)
    assert (await registry.session("s"), await registry.session("t")) == (record, None)
    assert (await registry.node("n"), await registry.leftovers("p")) == (ready, [])
    assert await registry.apply(changes[:-1])
    assert (await registry.session("s"), await registry.session("t")) == (None, session("t"))
    assert await registry.node_of("p") == binding
    assert await registry.leftovers("p") == [leftover("s")]


async def test_one_node_holds_a_processor(registry: Registry) -> None:
    """While one node is binding or bound to a processor no other can be; once it has ended, another can."""
    first, second = member("n1"), member("n2")
    await add(registry, first, second)
    binding = claimed(first, processor_id="p", at_s=3.0)
    claim = NodeChange(before=second, after=claimed(second, processor_id="p", at_s=4.0))
    assert await registry.node_of("p") is None
    assert await registry.apply([NodeChange(before=first, after=binding)])
    assert not await registry.apply([claim])
    holding = bound(binding, epoch=1, at_s=4.0)
    assert await registry.apply([NodeChange(before=binding, after=holding)])
    assert not await registry.apply([claim])
    assert (await registry.node_of("p"), await registry.node("n2")) == (holding, second)
    gone = node_ended(holding, at_s=5.0)
    assert await registry.apply([NodeChange(before=holding, after=gone), claim])
    assert await registry.node_of("p") == claim.after


async def test_one_of_many_gateways_wins(another: Another) -> None:
    """Of several that claim a node, or bring nodes to a processor, at the same time, exactly one succeeds."""
    gateways = [await another() for _ in range(3)]
    members = [member(f"n{number}") for number in range(3)]
    await add(gateways[0], *members)
    one_node = [
        gateway.apply([NodeChange(before=members[0], after=claimed(members[0], processor_id=f"p{number}", at_s=3.0))])
        for number, gateway in enumerate(gateways)
    ]
    assert sorted(await asyncio.gather(*one_node)) == [False, False, True]
    await add(gateways[0], member("n3"), member("n4"))
    one_processor = [
        gateway.apply([NodeChange(before=node, after=claimed(node, processor_id="p", at_s=3.0))])
        for gateway, node in zip(gateways, (*members[1:], member("n3")), strict=True)
    ]
    assert sorted(await asyncio.gather(*one_processor)) == [False, False, True]


async def test_sessions_are_found_by_what_is_asked(registry: Registry) -> None:
    """Each condition narrows, all of them together."""
    old = session("a", user_id="ann")
    active = activated(session("b", user_id="ann", on="q"), node_id="n", effective_config={})
    hibernating = hibernated(activated(session("c", at_s=50.0), node_id="n", effective_config={}))
    gone = ended(session("d", at_s=50.0), reason=EndReason.DELETED, at_s=70.0)
    everlasting = new_session("default", incarnation="1", at_s=99.0, ttl_s=None)
    await add(registry, everlasting, gone, hibernating, active, old)
    assert await ids(registry, SessionQuery()) == ["a", "b", "c", "d", "default"]
    assert await ids(registry, SessionQuery(user_id="ann")) == ["a", "b"]
    assert await ids(registry, SessionQuery(user_id="bob")) == []
    assert await ids(registry, SessionQuery(processor_id="p")) == ["a", "c", "d"]
    assert await ids(registry, SessionQuery(node_id="n")) == ["b"]
    assert await ids(registry, SessionQuery(statuses=LIVE_STATUSES)) == ["a", "b", "c", "default"]
    assert await ids(registry, SessionQuery(statuses=frozenset())) == []
    assert await ids(registry, SessionQuery(expires_by_s=61.0)) == ["a", "b"]
    assert await ids(registry, SessionQuery(ended_by_s=69.9)) == []
    assert await ids(registry, SessionQuery(ended_by_s=70.0)) == ["d"]
    assert await ids(registry, SessionQuery(created_by_s=50.0, processor_id="p")) == ["a", "c", "d"]
    both = SessionQuery(user_id="ann", statuses=frozenset({SessionStatus.ACTIVE}))
    assert await ids(registry, both) == ["b"]
    assert await registry.count_sessions(both) == 1
    assert await registry.count_sessions(SessionQuery(processor_id="p")) == 3


async def test_sessions_are_listed_by_the_page(registry: Registry) -> None:
    """Pages follow each other by id, without gap or overlap."""
    names = [f"s{number:02}" for number in range(10)]
    await add(registry, *(session(name) for name in reversed(names)))
    found: list[str] = []
    while page := await registry.sessions(SessionQuery(), limit=3, after=found[-1] if found else ""):
        assert len(page) <= 3
        found += [record.session_id for record in page]
    assert found == names


async def test_nodes_are_listed_and_counted(registry: Registry) -> None:
    """Every node on record is listed, by id; those that ended do not count."""
    gone = node_ended(member("n1"), at_s=3.0)
    await add(registry, member("n2"), gone, member("n0"))
    assert await registry.nodes() == [member("n0"), gone, member("n2")]
    assert await registry.count_nodes() == 2
    assert await registry.apply([NodeChange(before=gone, after=None)])
    assert [node.node_id for node in await registry.nodes()] == ["n0", "n2"]
    assert {node.state for node in await registry.nodes()} == {NodeState.POOL}


async def test_leftovers_are_a_set(registry: Registry) -> None:
    """Remembering and forgetting can be repeated; each processor and incarnation has its own."""
    wanted = [leftover("a"), leftover("a", incarnation="2"), leftover("b")]
    for item in (*wanted, wanted[0], leftover("a", processor_id="q")):
        assert await registry.apply([LeftoverChange(leftover=item, remember=True)])
    assert await registry.leftovers("p") == wanted
    for _ in range(2):
        assert await registry.apply([LeftoverChange(leftover=wanted[0], remember=False)])
    assert await registry.leftovers("p") == wanted[1:]
    assert await registry.leftovers("q") == [leftover("a", processor_id="q")]


async def test_a_processor_is_its_first_owners_for_good(registry: Registry) -> None:
    """The first owner has it, may say so again, and nobody else ever gets it, nor anything that depends on it."""
    ann, bob = (OwnerChange(processor_id="p", owner=owner) for owner in ("ann", "bob"))
    assert await registry.owner("p") is None
    assert await registry.apply([ann])
    assert await registry.apply([ann])
    assert not await registry.apply([SessionChange(before=None, after=session("s")), bob])
    assert not await registry.apply([bob, SessionChange(before=None, after=session("s"))])
    assert await registry.session("s") is None
    assert await registry.owner("p") == "ann"
    assert await registry.apply([OwnerChange(processor_id="q", owner="$_id")])  # no field of anything
    assert (await registry.owner("p"), await registry.owner("q")) == ("ann", "$_id")


async def test_of_two_owners_at_once_one_gets_the_processor(another: Another) -> None:
    """Two gateways that give a processor away at the same time cannot both."""
    registries = [await another(), await another()]
    claims = [OwnerChange(processor_id="p", owner=name) for name in ("ann", "bob")]
    made = await asyncio.gather(*(registry.apply([claim]) for registry, claim in zip(registries, claims, strict=True)))
    assert sorted(made) == [False, True]
    assert await registries[0].owner("p") == claims[made.index(True)].owner


async def test_sessions_are_found_by_owner(registry: Registry) -> None:
    """An owner's sessions are those created with that owner's key; asking for none in particular finds all."""
    await add(registry, session("a", owner="ann"), session("b", owner="bob"), session("c"), session("d", owner="ann"))
    assert await ids(registry, SessionQuery(owner="ann")) == ["a", "d"]
    assert await ids(registry, SessionQuery(owner="ann", user_id="eve")) == []
    assert await ids(registry, SessionQuery()) == ["a", "b", "c", "d"]
    assert await registry.count_sessions(SessionQuery(owner="bob")) == 1


async def test_documents_outlive_the_registry(another: Another) -> None:
    """What one gateway wrote, the next one finds."""
    first = await another()
    await add(first, session("s"), member("n"))
    await first.apply([LeftoverChange(leftover=leftover("s"), remember=True)])
    await first.close()
    await first.close()
    second = await another()
    assert await second.session("s") == session("s")
    assert await second.nodes() == [member("n")]
    assert await second.leftovers("p") == [leftover("s")]


async def test_many_at_once_lose_nothing(registry: Registry) -> None:
    """Concurrent changes of different documents are all made, those of one document one after the other."""
    names = [f"s{number:03}" for number in range(300)]
    made = await asyncio.gather(*(registry.apply([SessionChange(before=None, after=session(name))]) for name in names))
    assert all(made)
    assert await registry.count_sessions(SessionQuery()) == 300
    record = session("s000")
    rivals = await asyncio.gather(
        *(registry.apply([SessionChange(before=record, after=slid(record, at_s=at_s))]) for at_s in range(2, 12))
    )
    assert sorted(rivals) == [False] * 9 + [True]


async def test_a_caller_that_leaves_harms_nobody(registry: Registry) -> None:
    """A cancelled call may or may not be made; those around it are, and the registry goes on."""
    calls = [
        asyncio.ensure_future(registry.apply([SessionChange(before=None, after=session(f"s{n}"))])) for n in range(9)
    ]
    await asyncio.sleep(0)
    calls[4].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [outcome for number, outcome in enumerate(outcomes) if number != 4] == [True] * 8
    assert await registry.count_sessions(SessionQuery()) in {8, 9}


async def test_a_purge_is_owed_until_it_is_made(another: Another) -> None:
    """Purges are a set that outlives the registry; forgetting one that is not owed is no error."""
    first = await another()
    for processor_id in ("b", "a", "a"):
        assert await first.apply([PurgeChange(processor_id=processor_id, owed=True)])
    assert await first.purges() == ["a", "b"]
    second = await another()
    for _ in range(2):
        assert await second.apply([PurgeChange(processor_id="a", owed=False)])
    assert await second.purges() == ["b"]


async def test_a_processor_in_use_is_owed_no_purge(registry: Registry) -> None:
    """A purge cannot become owed while a session of the processor lives; one that ends with it is none."""
    one = session("one")
    await add(registry, one, session("two", on="q"))
    owing = PurgeChange(processor_id=one.processor_id, owed=True)
    assert not await registry.apply([owing])
    over = ended(one, reason=EndReason.DELETED, at_s=5.0)
    assert await registry.apply([SessionChange(before=one, after=over), owing])
    assert await registry.purges() == [one.processor_id]
    assert await registry.apply([SessionChange(before=over, after=None)])
    assert await registry.purges() == [one.processor_id]


async def test_a_fact_is_what_the_first_gateway_proposed(another: Another) -> None:
    """Whoever comes later, be it after everybody has left, gets what stands, and changes nothing."""
    first = await another()
    assert await first.settled("deployment", "ann's") == "ann's"
    assert await first.settled("deployment", "bob's") == "ann's"
    assert await first.settled("secret", "") == ""
    await first.close()
    second = await another()
    assert await second.settled("deployment", "bob's") == "ann's"
    assert await second.settled("secret", "bob's") == ""
    assert await second.settled("Deployment", "bob's") == "bob's"


async def test_gateways_that_settle_a_fact_at_once_agree(another: Another) -> None:
    """Every one of them gets the same answer, and it is one of those proposed."""
    gateways = [await another() for _ in range(4)]
    proposed = [str(number) for number in range(40)]
    answers = await asyncio.gather(
        *(gateways[number % 4].settled("deployment", value) for number, value in enumerate(proposed))
    )
    assert len(set(answers)) == 1
    assert answers[0] in proposed


async def test_gateways_say_that_they_serve_until_they_say_otherwise(another: Another) -> None:
    """The newest word of each gateway stands, and outlives the registry; leaving twice is no error."""
    first = await another()
    ann, bob = (GatewayRecord(gateway_id=name, engine="memory:1", spec_hash="h", at_s=1.0) for name in ("ann", "bob"))
    later = replace(ann, at_s=2.5, spec_hash="i")
    for gateway in (bob, ann, later):
        assert await first.apply([GatewayChange(gateway=gateway, serves=True)])
    assert await first.gateways() == [later, bob]
    second = await another()
    for _ in range(2):
        assert await second.apply([GatewayChange(gateway=bob, serves=False)])
    assert await second.gateways() == [later]

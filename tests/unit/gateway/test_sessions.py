"""Sessions and nodes: every move from every state, and what each leaves in the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from container_manager.spec import Address
from kato_gateway.domain.sessions import (
    HOLDING_STATES,
    NODE_MOVES,
    SESSION_MOVES,
    EndReason,
    IllegalMove,
    NodeRecord,
    NodeState,
    SessionRecord,
    SessionStatus,
    activated,
    bound,
    claimed,
    configured,
    ended,
    extended,
    hibernated,
    new_session,
    node_ended,
    pooled,
    quarantined,
    slid,
)

HERE = Address(host="127.0.0.1", port=20_000)

SESSION_STEPS: Mapping[SessionStatus, Callable[[SessionRecord], SessionRecord]] = {
    SessionStatus.ACTIVE: lambda record: activated(record, node_id="n2", effective_config={"persistence": 5}),
    SessionStatus.HIBERNATED: hibernated,
    SessionStatus.ENDED: lambda record: ended(record, reason=EndReason.DELETED, at_s=9.0),
}
NODE_STEPS: Mapping[NodeState, Callable[[NodeRecord], NodeRecord]] = {
    NodeState.POOL: lambda node: pooled(node, internal=HERE, external=None, at_s=9.0),
    NodeState.BINDING: lambda node: claimed(node, processor_id="p", at_s=9.0),
    NodeState.BOUND: lambda node: bound(node, epoch=3, at_s=9.0),
    NodeState.QUARANTINED: lambda node: quarantined(node, at_s=9.0),
    NodeState.ENDED: lambda node: node_ended(node, at_s=9.0),
}


def a_session(status: SessionStatus = SessionStatus.CREATING) -> SessionRecord:
    """Return a session in this state."""
    record = new_session("s", incarnation="i", at_s=1.0, ttl_s=60.0)
    active = activated(record, node_id="n1", effective_config={})
    return {
        SessionStatus.CREATING: record,
        SessionStatus.ACTIVE: active,
        SessionStatus.HIBERNATED: hibernated(active),
        SessionStatus.ENDED: ended(active, reason=EndReason.EXPIRED, at_s=5.0),
    }[status]


def a_node(state: NodeState = NodeState.CREATING) -> NodeRecord:
    """Return a node in this state."""
    node = NodeRecord(node_id="n", spec_hash="h", created_at_s=1.0, changed_at_s=1.0)
    member = pooled(node, internal=HERE, external=HERE, at_s=2.0)
    binding = claimed(member, processor_id="p", at_s=3.0)
    return {
        NodeState.CREATING: node,
        NodeState.POOL: member,
        NodeState.BINDING: binding,
        NodeState.BOUND: bound(binding, epoch=3, at_s=4.0),
        NodeState.QUARANTINED: quarantined(node, at_s=2.0),
        NodeState.ENDED: node_ended(node, at_s=2.0),
    }[state]


@pytest.mark.parametrize("before", SessionStatus)
@pytest.mark.parametrize("to", SESSION_STEPS)
def test_a_session_moves_only_as_its_table_says(before: SessionStatus, to: SessionStatus) -> None:
    """Every move of a session is either in the table, or raises."""
    record = a_session(before)
    if to in SESSION_MOVES[before]:
        after = SESSION_STEPS[to](record)
        assert (after.status, after.version) == (to, record.version + 1)
    else:
        with pytest.raises(IllegalMove):
            SESSION_STEPS[to](record)


@pytest.mark.parametrize("before", NodeState)
@pytest.mark.parametrize("to", NODE_STEPS)
def test_a_node_moves_only_as_its_table_says(before: NodeState, to: NodeState) -> None:
    """Every move of a node is either in the table, or raises."""
    node = a_node(before)
    if to in NODE_MOVES[before]:
        after = NODE_STEPS[to](node)
        assert (after.state, after.version, after.changed_at_s) == (to, node.version + 1, 9.0)
    else:
        with pytest.raises(IllegalMove):
            NODE_STEPS[to](node)


def test_the_tables_are_complete() -> None:
    """Each table names every state, and what has ended moves no more."""
    assert set(SESSION_MOVES) == set(SessionStatus)
    assert set(NODE_MOVES) == set(NodeState)
    assert not SESSION_MOVES[SessionStatus.ENDED]
    assert not NODE_MOVES[NodeState.ENDED]


@pytest.mark.parametrize("status", SessionStatus)
def test_a_session_names_its_node_exactly_while_active(status: SessionStatus) -> None:
    """Only an active session has a node; only an ended one has a reason and an end."""
    record = a_session(status)
    assert (record.node_id is not None) == (status is SessionStatus.ACTIVE)
    assert (record.reason is not None) == (record.ended_at_s is not None) == (status is SessionStatus.ENDED)
    assert record.live == (status is not SessionStatus.ENDED)


@pytest.mark.parametrize("state", NodeState)
def test_a_node_names_its_processor_exactly_while_it_holds_one(state: NodeState) -> None:
    """Only a binding or bound node has a processor, only a bound one an epoch."""
    node = a_node(state)
    assert (node.processor_id is not None) == (state in HOLDING_STATES)
    assert (node.epoch is not None) == (state is NodeState.BOUND)


def test_a_session_without_node_id_has_a_processor_of_its_own() -> None:
    """The processor defaults to the session's id."""
    assert new_session("s", incarnation="i", at_s=0.0, ttl_s=None).owns_processor
    assert not new_session("s", incarnation="i", at_s=0.0, ttl_s=None, processor_id="p").owns_processor


def test_the_default_session_never_expires() -> None:
    """Whatever time to live is asked for, `default` has none."""
    assert new_session("default", incarnation="i", at_s=0.0, ttl_s=60.0).expires_at_s is None


def test_use_slides_the_expiry_and_never_back() -> None:
    """A use moves both times on; an older use moves neither."""
    later = slid(a_session(), at_s=31.0)
    assert (later.last_activity_at_s, later.expires_at_s) == (31.0, 91.0)
    again = slid(later, at_s=11.0)
    assert (again.last_activity_at_s, again.expires_at_s) == (31.0, 91.0)


def test_use_leaves_a_fixed_expiry_alone() -> None:
    """A session that does not slide expires when it was to, however much it is used."""
    fixed = new_session("s", incarnation="i", at_s=1.0, ttl_s=60.0, sliding=False)
    assert slid(fixed, at_s=50.0).expires_at_s == 61.0
    assert slid(fixed, at_s=50.0).last_activity_at_s == 50.0


@pytest.mark.parametrize(
    ("ttl_s", "expires_at_s", "kept_s"), [(None, 110.0, 60.0), (10.0, 60.0, 10.0), (500.0, 550.0, 500.0)]
)
def test_extending_sets_the_expiry_anew(ttl_s: float | None, expires_at_s: float, kept_s: float) -> None:
    """An extension counts from now, by its own time to live or the session's, and may be shorter."""
    after = extended(a_session(), at_s=50.0, ttl_s=ttl_s)
    assert (after.expires_at_s, after.ttl_s) == (expires_at_s, kept_s)


@pytest.mark.parametrize("ttl_s", [None, 1.0])
def test_the_default_session_gets_no_expiry_by_being_extended(ttl_s: float | None) -> None:
    """Extending the session `default`, with a time to live or without, leaves it without an expiry."""
    default = new_session("default", incarnation="i", at_s=0.0, ttl_s=None)
    after = extended(default, at_s=9.0, ttl_s=ttl_s)
    assert (after.expires_at_s, after.ttl_s) == (None, None)


def test_each_change_counts() -> None:
    """Every change of a session raises its version by one."""
    record = a_session(SessionStatus.ACTIVE)
    for after in (
        slid(record, at_s=2.0),
        extended(record, at_s=2.0, ttl_s=1.0),
        configured(record, effective_config={}),
    ):
        assert after.version == record.version + 1

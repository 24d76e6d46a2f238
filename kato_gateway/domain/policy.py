"""Whom to start, expire, recover: pure functions of records and a clock value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from container_manager.spec import Liveness, NodeStatus
from kato_gateway.domain.admission import NODE_BYTES
from kato_gateway.domain.sessions import NodeRecord, NodeState, SessionRecord, slid

YIELD_S_MAX = 1.0
BACKOFF_S_MIN = 0.5
BACKOFF_S_MAX = 30.0
INTENT_SLACK_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecyclePolicy:
    """The lifecycle's settings; times in seconds.

    Attributes:
        warm_pool_size: booted unbound nodes to keep ready; 0: none.
        nodes_max: live nodes admitted at once, those being started and those in the pool included.
        node_bytes: of the host's memory, which one more node takes.
        idle_timeout_s: after which a node without operations stops itself; 0: never.
        session_ttl_s: a session's time to live where its client names none.
        start_timeout_s: for a node to start and answer.
        bind_timeout_s: for a bind, which loads the processor's patterns.
        call_timeout_s: for any other control call, and for a question to the runtime.
        drain_grace_s: for a node to finish what it has, before it is killed or superseded.
        starts_max: nodes started at once.
        upkeep_interval_s: between two looks for expired sessions.
        flush_interval_s: between two writes of the sessions' last use.
        sweep_interval_s: between two comparisons of what runs with what is recorded.
        silent_max_s: how long a node that runs may not answer before it is ended.
        draining_max_s: how long it may be draining.
        gateway_silent_max_s: how long another gateway may not say that it serves before it is taken to be gone.
        quarantine_s: how long a running node that nobody has recorded is left alone.
        ended_kept_s: how long an ended session is remembered.
    """

    warm_pool_size: int = 2
    nodes_max: int = 900
    node_bytes: int = NODE_BYTES
    idle_timeout_s: float = 900.0
    session_ttl_s: float = 3600.0
    start_timeout_s: float = 30.0
    bind_timeout_s: float = 30.0
    call_timeout_s: float = 5.0
    drain_grace_s: float = 10.0
    starts_max: int = 4
    upkeep_interval_s: float = 1.0
    flush_interval_s: float = 3.0
    sweep_interval_s: float = 10.0
    silent_max_s: float = 10.0
    draining_max_s: float = 30.0
    gateway_silent_max_s: float = 30.0
    quarantine_s: float = 60.0
    ended_kept_s: float = 86_400.0


# --- the pool ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """The pool at one moment.

    Attributes:
        idle: members ready to be claimed; starting: those being started; waiting: users who found no member ready.
        busy_since_s: since when users have been claiming and binding without a pause; None: nobody is.
        failures: starts that failed since the last that succeeded; failed_at_s: when the last of them did.
        held_until_s: when to look again at a pool that another gateway is filling.

    Times are of a clock that only goes on.
    """

    idle: int
    starting: int
    waiting: int
    busy_since_s: float | None
    failures: int
    failed_at_s: float
    held_until_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefillPlan:
    """How many nodes to start now, and when to look again, in seconds; None: when something changes."""

    start: int
    again_in_s: float | None


def plan_refill(view: PoolView, *, now_s: float, size: int, starts_max: int) -> RefillPlan:
    """Plan the next starts: at once for users who wait; for the pool a few at a time, while users need nothing.

    Those being started count as if they were there, so nothing is started twice. The pool yields to users for at most
    YIELD_S_MAX at a stretch, and after failures waits twice as long each time, from BACKOFF_S_MIN to BACKOFF_S_MAX.
    """
    room = starts_max - view.starting
    if view.waiting:
        return RefillPlan(start=max(0, min(room, view.waiting - view.starting)), again_in_s=None)
    missing = size - view.idle - view.starting
    start = min(missing, max(1, starts_max // 2) - view.starting)
    if start <= 0:
        return RefillPlan(start=0, again_in_s=None)
    wait_s = max(_backoff_left_s(view, now_s), _yield_left_s(view, now_s), view.held_until_s - now_s)
    return RefillPlan(start=0, again_in_s=wait_s) if wait_s > 0 else RefillPlan(start=start, again_in_s=None)


def _backoff_left_s(view: PoolView, now_s: float) -> float:
    if not view.failures:
        return 0.0
    pause_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(view.failures - 1, 16))
    return view.failed_at_s + pause_s - now_s


def _yield_left_s(view: PoolView, now_s: float) -> float:
    return 0.0 if view.busy_since_s is None else view.busy_since_s + YIELD_S_MAX - now_s


# --- expiry -----------------------------------------------------------------------------------------------------------


def expires_at_s(record: SessionRecord, last_use_s: float | None, *, slack_s: float = 0.0) -> float | None:
    """Return when the session expires, a use that is not written yet included; None: never.

    This is the date's to say, and jumps with it: a time to live that spans restarts and hosts has no other measure.

    Args:
        slack_s: for how long another gateway may not have written a use that moves the expiry.
    """
    known = record if last_use_s is None else slid(record, at_s=last_use_s)
    if known.expires_at_s is None:
        return None
    return known.expires_at_s + (slack_s if record.sliding else 0.0)


def plan_expiry(
    records: Collection[SessionRecord],
    *,
    last_uses_s: Mapping[str, float],
    in_use: Collection[str],
    now_s: float,
    slack_s: float = 0.0,
) -> tuple[SessionRecord, ...]:
    """Return the live sessions whose time has come: none with a call open, none used since within its time to live."""
    return tuple(
        record
        for record in records
        if record.live and record.session_id not in in_use and _has_come(record, last_uses_s, now_s, slack_s)
    )


def _has_come(record: SessionRecord, last_uses_s: Mapping[str, float], now_s: float, slack_s: float) -> bool:
    at_s = expires_at_s(record, last_uses_s.get(record.session_id), slack_s=slack_s)
    return at_s is not None and at_s <= now_s


def is_stuck(age_s: float, policy: LifecyclePolicy) -> bool:
    """Return whether a session that has been seen being created for so long was left behind by its gateway."""
    return age_s >= policy.start_timeout_s + policy.bind_timeout_s + INTENT_SLACK_S


# --- nodes: what runs, what is recorded, what they answer -----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node says of itself (kato_node.wire.control.Identity)."""

    node_id: str
    state: Literal["unbound", "binding", "bound", "draining"]
    processor_id: str | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was found out about a node.

    Attributes:
        foreign: it is of another deployment or engine, and whether it lives is not ours to know.
        asked: whether the node itself was asked; its answer is None if it gave none.
        unwell_s: how long it has been alive and not answering, or draining.
        age_s: how long this gateway has seen its record as it is.
        exit_status: of a dead node, where the runtime knows it (NodeStatus).
        abandoned: this very gateway was starting it when it was killed, and nobody waits for it any more.
    """

    liveness: Liveness
    foreign: bool = False
    asked: bool = False
    answer: Answer | None = None
    unwell_s: float = 0.0
    age_s: float = 0.0
    exit_status: int | None = None
    abandoned: bool = False


class Verdict(Enum):
    """What follows from a sight of a node."""

    GOOD = "good"  # it is what its record says
    RECORD = "record"  # it is bound, and its record does not say so yet
    WAIT = "wait"  # nothing can be concluded, or nothing needs to be
    END = "end"  # it is dead, or of no use to anybody
    QUARANTINE = "quarantine"  # it runs, and is not what its record says


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashes:
    """Which specifications of nodes are of use (NodeSpec.spec_hash).

    Attributes:
        own: of the nodes that this gateway would start today.
        others: of those that the other gateways of its engine would start.
    """

    own: str
    others: frozenset[str] = frozenset()


def judge(node: NodeRecord, sight: Sight, *, hashes: Hashes, policy: LifecyclePolicy) -> Verdict:
    """Judge a recorded node. While the runtime cannot tell whether it lives, nothing follows.

    One of another deployment or engine is only ever found GOOD, or to be waited for. An unbound one of a specification
    that nobody would start today is of no use; one that another gateway would start is left to that.
    """
    if sight.foreign:
        return _judge_foreign(node, sight.answer)
    lost = sight.abandoned and sight.liveness is Liveness.ALIVE  # one that is not there may be about to begin
    young = node.state is NodeState.CREATING and sight.age_s < policy.start_timeout_s + INTENT_SLACK_S and not lost
    if sight.liveness is Liveness.UNKNOWN or young:
        return Verdict.WAIT
    if sight.liveness is Liveness.DEAD or node.state in {NodeState.CREATING, NodeState.ENDED}:
        return Verdict.END
    if node.state is NodeState.QUARANTINED:
        return Verdict.END if sight.age_s >= policy.quarantine_s else Verdict.WAIT
    return _judge_answer(node, sight, hashes, policy) if sight.asked else Verdict.WAIT


def _judge_foreign(node: NodeRecord, answer: Answer | None) -> Verdict:
    """Take the node's own word, if it is just what its record says."""
    return Verdict.GOOD if answer is not None and _is_as_bound(node, answer) else Verdict.WAIT


def _is_as_bound(node: NodeRecord, answer: Answer) -> bool:
    told = (answer.node_id, answer.state, answer.processor_id, answer.epoch)
    return node.state is NodeState.BOUND and told == (node.node_id, "bound", node.processor_id, node.epoch)


def _judge_answer(node: NodeRecord, sight: Sight, hashes: Hashes, policy: LifecyclePolicy) -> Verdict:
    answer = sight.answer
    if answer is not None and answer.node_id != node.node_id:
        return Verdict.QUARANTINE
    if answer is None:
        return Verdict.END if sight.unwell_s >= policy.silent_max_s else Verdict.WAIT
    if answer.state == "draining":
        return Verdict.END if sight.unwell_s >= policy.draining_max_s else Verdict.WAIT
    if node.state is NodeState.POOL:
        return _judge_member(node, answer, hashes)
    return _judge_holder(node, answer, sight.age_s, policy)


def _judge_member(node: NodeRecord, answer: Answer, hashes: Hashes) -> Verdict:
    if answer.state != "unbound":
        return Verdict.QUARANTINE
    if node.spec_hash == hashes.own:
        return Verdict.GOOD
    return Verdict.WAIT if node.spec_hash in hashes.others else Verdict.END


def _judge_holder(node: NodeRecord, answer: Answer, age_s: float, policy: LifecyclePolicy) -> Verdict:
    if node.state is NodeState.BOUND:
        return Verdict.GOOD if _is_as_bound(node, answer) else Verdict.QUARANTINE
    if answer.state == "unbound":  # whoever claimed it has not told it yet, or never will
        return Verdict.END if age_s >= policy.call_timeout_s else Verdict.WAIT
    if answer.state == "bound":
        return Verdict.RECORD if answer.processor_id == node.processor_id else Verdict.QUARANTINE
    return Verdict.END if age_s >= policy.bind_timeout_s + INTENT_SLACK_S else Verdict.WAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do about one node; `recorded` is False for one that the registry does not have yet."""

    node: NodeRecord
    verdict: Verdict
    answer: Answer | None = None
    exit_status: int | None = None
    recorded: bool = True


def plan_recovery(
    records: Collection[NodeRecord],
    sights: Mapping[str, Sight],
    unrecorded: Collection[NodeStatus],
    *,
    now_s: float,
    engine: str,
    hashes: Hashes,
    policy: LifecyclePolicy,
) -> tuple[Step, ...]:
    """Plan what to do about every node, recorded or running; those to wait for are left out.

    Args:
        sights: of each record, by node id; one that is missing is not known to be anything.
        unrecorded: what the runtime has of this deployment and the registry has not: the dead leave traces to remove,
            the living are quarantined.
        engine: the runtime's.
    """
    unknown = Sight(liveness=Liveness.UNKNOWN)
    seen = [(record, sights.get(record.node_id, unknown)) for record in records]
    steps = [
        Step(
            node=record,
            verdict=judge(record, sight, hashes=hashes, policy=policy),
            answer=sight.answer,
            exit_status=sight.exit_status,
        )
        for record, sight in seen
    ]
    steps += [_found(status, engine, now_s) for status in unrecorded if status.liveness is not Liveness.UNKNOWN]
    return tuple(step for step in steps if step.verdict is not Verdict.WAIT)


def _found(status: NodeStatus, engine: str, now_s: float) -> Step:
    alive = status.liveness is Liveness.ALIVE
    record = NodeRecord(
        node_id=status.node_id,
        spec_hash=status.spec_hash,
        engine=engine,
        created_at_s=status.created_at_s,
        changed_at_s=now_s,
        state=NodeState.QUARANTINED if alive else NodeState.ENDED,
        internal=status.internal,
        external=status.external,
    )
    verdict = Verdict.QUARANTINE if alive else Verdict.END
    return Step(node=record, verdict=verdict, exit_status=status.exit_status, recorded=False)


def needs_asking(node: NodeRecord, liveness: Liveness) -> bool:
    """Return whether a judgement of the node takes its own answer."""
    return liveness is Liveness.ALIVE and node.state in {NodeState.POOL, NodeState.BINDING, NodeState.BOUND}

"""The policies: what to start, expire and recover, as functions of records and a clock value."""

from __future__ import annotations

from dataclasses import replace

import pytest

from container_manager.spec import Address, Liveness, NodeStatus
from kato_gateway.domain.policy import (
    BACKOFF_S_MAX,
    BACKOFF_S_MIN,
    INTENT_SLACK_S,
    YIELD_S_MAX,
    Answer,
    Hashes,
    LifecyclePolicy,
    PoolView,
    RefillPlan,
    Sight,
    Verdict,
    is_stuck,
    judge,
    needs_asking,
    plan_expiry,
    plan_recovery,
    plan_refill,
)
from kato_gateway.domain.sessions import (
    EndReason,
    NodeRecord,
    NodeState,
    SessionRecord,
    ended,
    new_session,
)

POLICY = LifecyclePolicy()
CALM = PoolView(idle=0, starting=0, waiting=0, busy_since_s=None, failures=0, failed_at_s=0.0)
HERE = Address(host="127.0.0.1", port=20_000)


class TestRefill:
    """plan_refill."""

    @pytest.mark.parametrize(
        ("idle", "starting", "size", "started"),
        [
            (0, 0, 5, 2),
            (0, 1, 5, 1),
            (0, 2, 5, 0),
            (4, 0, 5, 1),
            (4, 1, 5, 0),
            (5, 0, 5, 0),
            (7, 0, 5, 0),
            (0, 0, 0, 0),
        ],
    )
    def test_the_pool_is_refilled_a_few_at_a_time(self, idle: int, starting: int, size: int, started: int) -> None:
        """Half of the starts at once, and those being started count as if they were there."""
        plan = plan_refill(replace(CALM, idle=idle, starting=starting), now_s=0.0, size=size, starts_max=4)
        assert plan == RefillPlan(start=started, again_in_s=None)

    @pytest.mark.parametrize(
        ("waiting", "starting", "started"),
        [(1, 0, 1), (3, 1, 2), (3, 3, 0), (9, 0, 4), (9, 3, 1), (9, 4, 0), (1, 2, 0)],
    )
    def test_whoever_waits_has_a_start_under_way(self, waiting: int, starting: int, started: int) -> None:
        """Users who wait get one start each, up to the bound, whatever failed before and however busy it is."""
        view = PoolView(idle=0, starting=starting, waiting=waiting, busy_since_s=0.0, failures=9, failed_at_s=0.0)
        assert plan_refill(view, now_s=0.0, size=5, starts_max=4) == RefillPlan(start=started, again_in_s=None)

    @pytest.mark.parametrize("failures", range(1, 12))
    def test_failures_back_off(self, failures: int) -> None:
        """Each failure in a row doubles the pause before the pool's next start, up to a bound."""
        pause_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** (failures - 1))
        view = replace(CALM, failures=failures, failed_at_s=100.0)
        assert plan_refill(view, now_s=100.0, size=1, starts_max=4) == RefillPlan(start=0, again_in_s=pause_s)
        assert plan_refill(view, now_s=100.0 + pause_s, size=1, starts_max=4).start == 1

    def test_a_long_row_of_failures_is_no_overflow(self) -> None:
        """The pause stays at its bound for ever."""
        view = replace(CALM, failures=10**6, failed_at_s=100.0)
        assert plan_refill(view, now_s=100.0, size=1, starts_max=4).again_in_s == BACKOFF_S_MAX

    def test_refilling_yields_to_users_for_a_while(self) -> None:
        """While users claim and bind nothing is started for the pool, but not for ever."""
        view = replace(CALM, busy_since_s=50.0)
        assert plan_refill(view, now_s=50.25, size=1, starts_max=4) == RefillPlan(
            start=0, again_in_s=YIELD_S_MAX - 0.25
        )
        assert plan_refill(view, now_s=50.0 + YIELD_S_MAX, size=1, starts_max=4).start == 1

    def test_a_pool_that_another_gateway_fills_is_looked_at_again(self) -> None:
        """Until then nothing is started for it; for users who wait, everything is."""
        view = replace(CALM, held_until_s=51.0)
        assert plan_refill(view, now_s=50.0, size=1, starts_max=4) == RefillPlan(start=0, again_in_s=1.0)
        assert plan_refill(view, now_s=51.0, size=1, starts_max=4).start == 1
        assert plan_refill(replace(view, waiting=1), now_s=50.0, size=1, starts_max=4).start == 1

    def test_one_start_at_a_time_is_possible(self) -> None:
        """With one start allowed the pool still fills."""
        assert plan_refill(CALM, now_s=0.0, size=3, starts_max=1).start == 1

    @pytest.mark.parametrize("idle", range(5))
    @pytest.mark.parametrize("starting", range(7))
    @pytest.mark.parametrize("waiting", range(7))
    def test_starts_are_bounded(self, idle: int, starting: int, waiting: int) -> None:
        """Never more starts than allowed, and never more nodes than somebody or the pool has a use for."""
        view = replace(CALM, idle=idle, starting=starting, waiting=waiting)
        start = plan_refill(view, now_s=0.0, size=3, starts_max=4).start
        assert start >= 0
        assert start == 0 or start + starting <= 4
        assert start == 0 or start + starting <= (waiting or 3 - idle)


def session(name: str = "s", *, ttl_s: float | None = 60.0, sliding: bool = True) -> SessionRecord:
    """Return a session created at 0."""
    return new_session(name, incarnation="i", at_s=0.0, ttl_s=ttl_s, sliding=sliding)


class TestExpiry:
    """plan_expiry, stuck_since_s, serving."""

    def test_a_session_expires_when_its_time_has_come(self) -> None:
        """Not before its expiry, and at it."""
        record = session()
        assert plan_expiry([record], last_uses_s={}, in_use=(), now_s=59.9) == ()
        assert plan_expiry([record], last_uses_s={}, in_use=(), now_s=60.0) == (record,)

    def test_a_use_not_yet_written_counts(self) -> None:
        """A session used within its time to live stays, though its record does not say so yet."""
        record = session()
        assert plan_expiry([record], last_uses_s={"s": 30.0}, in_use=(), now_s=61.0) == ()
        assert plan_expiry([record], last_uses_s={"s": 30.0}, in_use=(), now_s=90.0) == (record,)

    def test_use_does_not_save_a_session_that_does_not_slide(self) -> None:
        """A fixed expiry holds whatever is called before it."""
        record = session(sliding=False)
        assert plan_expiry([record], last_uses_s={"s": 59.0}, in_use=(), now_s=60.0) == (record,)

    def test_a_session_in_use_does_not_expire(self) -> None:
        """An open call or socket keeps a session, a fixed expiry included."""
        records = [session("a"), session("b", sliding=False), session("c")]
        assert plan_expiry(records, last_uses_s={}, in_use={"a", "b"}, now_s=99.0) == (records[2],)

    def test_neither_the_ended_nor_the_everlasting_expire(self) -> None:
        """Ended sessions and those without a time to live are left alone."""
        gone = ended(session(), reason=EndReason.DELETED, at_s=1.0)
        assert plan_expiry([gone, session("e", ttl_s=None)], last_uses_s={}, in_use=(), now_s=10**9) == ()

    def test_other_gateways_get_time_to_write_a_use(self) -> None:
        """Where a use may not be written yet, a sliding session gets that much longer; a fixed expiry holds."""
        records = [session("a"), session("b", sliding=False)]
        assert plan_expiry(records, last_uses_s={}, in_use=(), now_s=68.9, slack_s=9.0) == (records[1],)
        assert plan_expiry(records, last_uses_s={}, in_use=(), now_s=69.0, slack_s=9.0) == tuple(records)

    def test_a_creation_is_stuck_once_every_deadline_has_passed(self) -> None:
        """Nothing that may still succeed is taken for stuck."""
        assert not is_stuck(POLICY.start_timeout_s + POLICY.bind_timeout_s, POLICY)
        assert is_stuck(POLICY.start_timeout_s + POLICY.bind_timeout_s + INTENT_SLACK_S, POLICY)


def node(state: NodeState) -> NodeRecord:
    """Return a node of processor `p` with epoch 3, as far as this state has either."""
    holds = state in {NodeState.BINDING, NodeState.BOUND}
    return NodeRecord(
        node_id="n",
        spec_hash="h",
        created_at_s=0.0,
        changed_at_s=0.0,
        state=state,
        processor_id="p" if holds else None,
        epoch=3 if state is NodeState.BOUND else None,
        internal=HERE,
    )


UNBOUND = Answer(node_id="n", state="unbound")
BINDING = Answer(node_id="n", state="binding")
BOUND = Answer(node_id="n", state="bound", processor_id="p", epoch=3)
NEWER = replace(BOUND, epoch=4)
OTHER = replace(BOUND, processor_id="q")
DRAINING = Answer(node_id="n", state="draining")
STRANGER = replace(BOUND, node_id="x")
LATER_S = 10_000.0
RUNNING = (NodeState.POOL, NodeState.BINDING, NodeState.BOUND)


def verdict(record: NodeRecord, sight: Sight, *, hashes: Hashes = Hashes(own="h")) -> Verdict:  # noqa: B008 - a value
    """Judge under the default policy."""
    return judge(record, sight, hashes=hashes, policy=POLICY)


def seen(liveness: Liveness, *, age_s: float = LATER_S) -> Sight:
    """Return the sight of a node that was not asked, its record seen for so long."""
    return Sight(liveness=liveness, age_s=age_s)


def alive(answer: Answer | None, *, unwell_s: float = 0.0, age_s: float = LATER_S) -> Sight:
    """Return the sight of a node that lives and was asked."""
    return Sight(liveness=Liveness.ALIVE, asked=True, answer=answer, unwell_s=unwell_s, age_s=age_s)


class TestJudge:
    """judge, needs_asking."""

    @pytest.mark.parametrize("state", NodeState)
    def test_nothing_follows_while_the_runtime_cannot_tell(self, state: NodeState) -> None:
        """UNKNOWN is waited for in every state, however long."""
        assert verdict(node(state), seen(Liveness.UNKNOWN)) is Verdict.WAIT

    @pytest.mark.parametrize("state", NodeState)
    def test_the_dead_are_ended(self, state: NodeState) -> None:
        """Only DEAD lets a record go, in every state."""
        assert verdict(node(state), seen(Liveness.DEAD)) is Verdict.END

    @pytest.mark.parametrize("liveness", Liveness)
    def test_a_young_intent_is_left_to_whoever_had_it(self, liveness: Liveness) -> None:
        """A node that is just being started is not taken for a leftover, though the runtime has not heard of it."""
        within_s = POLICY.start_timeout_s + INTENT_SLACK_S
        young = verdict(node(NodeState.CREATING), seen(liveness, age_s=within_s - 0.1))
        assert young is Verdict.WAIT
        old = verdict(node(NodeState.CREATING), seen(liveness, age_s=within_s))
        assert old is (Verdict.WAIT if liveness is Liveness.UNKNOWN else Verdict.END)

    def test_quarantine_has_an_end(self) -> None:
        """A quarantined node that lives is left alone for its time, then ended."""
        quarantined = node(NodeState.QUARANTINED)
        for age_s, expected in ((POLICY.quarantine_s - 0.1, Verdict.WAIT), (POLICY.quarantine_s, Verdict.END)):
            assert verdict(quarantined, seen(Liveness.ALIVE, age_s=age_s)) is expected

    @pytest.mark.parametrize("state", RUNNING)
    def test_a_node_that_was_not_asked_is_left_alone(self, state: NodeState) -> None:
        """Alive is enough for a node that is in use already."""
        assert verdict(node(state), seen(Liveness.ALIVE)) is Verdict.WAIT

    @pytest.mark.parametrize(
        ("state", "answer", "expected"),
        [
            (NodeState.POOL, UNBOUND, Verdict.GOOD),
            (NodeState.POOL, BINDING, Verdict.QUARANTINE),
            (NodeState.POOL, BOUND, Verdict.QUARANTINE),
            (NodeState.POOL, STRANGER, Verdict.QUARANTINE),
            (NodeState.BINDING, UNBOUND, Verdict.END),
            (NodeState.BINDING, BINDING, Verdict.END),
            (NodeState.BINDING, BOUND, Verdict.RECORD),
            (NodeState.BINDING, OTHER, Verdict.QUARANTINE),
            (NodeState.BINDING, STRANGER, Verdict.QUARANTINE),
            (NodeState.BOUND, BOUND, Verdict.GOOD),
            (NodeState.BOUND, NEWER, Verdict.QUARANTINE),
            (NodeState.BOUND, OTHER, Verdict.QUARANTINE),
            (NodeState.BOUND, UNBOUND, Verdict.QUARANTINE),
            (NodeState.BOUND, BINDING, Verdict.QUARANTINE),
            (NodeState.BOUND, STRANGER, Verdict.QUARANTINE),
        ],
    )
    def test_what_a_node_answers_is_held_against_its_record(
        self, state: NodeState, answer: Answer, expected: Verdict
    ) -> None:
        """A node that is what its record says is good; one that is something else gets no calls."""
        assert verdict(node(state), alive(answer)) is expected

    @pytest.mark.parametrize(
        ("answer", "within_s"), [(UNBOUND, POLICY.call_timeout_s), (BINDING, POLICY.bind_timeout_s + INTENT_SLACK_S)]
    )
    def test_a_bind_under_way_is_given_its_time(self, answer: Answer, within_s: float) -> None:
        """A node that somebody claimed is waited for until its bind cannot be under way any more."""
        binding = node(NodeState.BINDING)
        assert verdict(binding, alive(answer, age_s=within_s - 0.1)) is Verdict.WAIT
        assert verdict(binding, alive(answer, age_s=within_s)) is Verdict.END

    def test_a_member_of_an_older_specification_is_of_no_use(self) -> None:
        """Unbound nodes of another specification end, unless another gateway would start such; bound ones serve on."""
        for hashes, expected in (
            (Hashes(own="new"), Verdict.END),
            (Hashes(own="new", others=frozenset({"newer"})), Verdict.END),
            (Hashes(own="new", others=frozenset({"h"})), Verdict.WAIT),
        ):
            assert verdict(node(NodeState.POOL), alive(UNBOUND), hashes=hashes) is expected
            assert verdict(node(NodeState.BOUND), alive(BOUND), hashes=hashes) is Verdict.GOOD

    @pytest.mark.parametrize("state", NodeState)
    @pytest.mark.parametrize("answer", [None, UNBOUND, BINDING, BOUND, NEWER, OTHER, DRAINING, STRANGER])
    def test_a_foreign_node_is_used_or_left_alone(self, state: NodeState, answer: Answer | None) -> None:
        """Of another deployment's or engine's nodes only its own word counts, and only if its record says the same."""
        sight = Sight(liveness=Liveness.UNKNOWN, foreign=True, asked=True, answer=answer, age_s=LATER_S)
        good = (state, answer) == (NodeState.BOUND, BOUND)
        assert verdict(node(state), sight) is (Verdict.GOOD if good else Verdict.WAIT)

    @pytest.mark.parametrize("state", RUNNING)
    @pytest.mark.parametrize(
        ("answer", "within_s"),
        [(None, POLICY.silent_max_s), (DRAINING, POLICY.draining_max_s)],
        ids=["silent", "draining"],
    )
    def test_a_silent_or_draining_node_is_given_time(
        self, state: NodeState, answer: Answer | None, within_s: float
    ) -> None:
        """A node that lives and does not answer, or drains, is ended only after a good while of it."""
        assert verdict(node(state), alive(answer, unwell_s=within_s - 0.1)) is Verdict.WAIT
        assert verdict(node(state), alive(answer, unwell_s=within_s)) is Verdict.END

    @pytest.mark.parametrize("state", NodeState)
    @pytest.mark.parametrize("liveness", Liveness)
    def test_only_the_living_are_asked(self, state: NodeState, liveness: Liveness) -> None:
        """A node is asked if it lives and its answer matters."""
        assert needs_asking(node(state), liveness) == (liveness is Liveness.ALIVE and state in RUNNING)


class TestRecovery:
    """plan_recovery."""

    def plan(
        self, records: list[NodeRecord], sights: dict[str, Sight], unrecorded: list[NodeStatus]
    ) -> dict[str, tuple[Verdict, NodeState, bool]]:
        """Plan at LATER_S; by node id."""
        steps = plan_recovery(
            records, sights, unrecorded, now_s=LATER_S, engine="e", hashes=Hashes(own="h"), policy=POLICY
        )
        return {step.node.node_id: (step.verdict, step.node.state, step.recorded) for step in steps}

    def test_every_recorded_node_is_judged(self) -> None:
        """Each record is judged by what was seen of it; what is to wait for is left out."""
        records = [replace(node(state), node_id=state.value) for state in NodeState]
        sights = {
            "creating": seen(Liveness.DEAD),
            "pool": alive(replace(UNBOUND, node_id="pool")),
            "binding": alive(replace(BOUND, node_id="binding")),
            "bound": Sight(liveness=Liveness.UNKNOWN),
            "quarantined": seen(Liveness.ALIVE),
            "ended": Sight(liveness=Liveness.DEAD),
        }
        assert self.plan(records, sights, []) == {
            "creating": (Verdict.END, NodeState.CREATING, True),
            "pool": (Verdict.GOOD, NodeState.POOL, True),
            "binding": (Verdict.RECORD, NodeState.BINDING, True),
            "quarantined": (Verdict.END, NodeState.QUARANTINED, True),
            "ended": (Verdict.END, NodeState.ENDED, True),
        }

    def test_a_record_of_which_nothing_was_seen_is_left_alone(self) -> None:
        """No sight is no conclusion."""
        assert self.plan([node(NodeState.BOUND)], {}, []) == {}

    def test_what_runs_without_a_record_is_quarantined(self) -> None:
        """The living are quarantined from now, of the dead the traces are removed, the unknown are left alone."""
        found = [NodeStatus(node_id=liveness.value, liveness=liveness) for liveness in Liveness]
        assert self.plan([], {}, found) == {
            "alive": (Verdict.QUARANTINE, NodeState.QUARANTINED, False),
            "dead": (Verdict.END, NodeState.ENDED, False),
        }
        steps = plan_recovery([], {}, found, now_s=LATER_S, engine="e", hashes=Hashes(own="h"), policy=POLICY)
        assert {(step.node.changed_at_s, step.node.engine) for step in steps} == {(LATER_S, "e")}

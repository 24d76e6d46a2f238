"""Three sessions on two processors against the pure domain: whatever is asked, in whatever order, restarts included."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kato_node.api.calls import HANDLERS, Call
from kato_node.domain.config import DEFAULT
from kato_node.domain.errors import DomainError
from kato_node.domain.learn import pattern_name
from kato_node.domain.ltm import Ltm, LtmChange
from kato_node.domain.predict import predict
from kato_node.errors import ServiceError
from kato_node.node import BindSpec, Node
from kato_node.replies import shown
from kato_node.service import RetryKey
from kato_node.store.base import CommitUnknown, StoreUnavailable
from kato_node.store.memory import MemoryDisk
from tests.chaos.checker import matches
from tests.chaos.model import Answer, ProcessorModel, SessionModel, applied
from tests.chaos.operations import Kind, Op
from tests.unit.node.running import new_node

T = TypeVar("T")
Bodies: TypeAlias = st.SearchStrategy[dict[str, Any]]

PROCESSOR_OF = {"one": "p", "two": "p", "three": "q"}
SESSIONS = st.sampled_from(sorted(PROCESSOR_OF))
SYMBOLS = st.sampled_from(["a", "b", "c"])
OBSERVATIONS: Bodies = st.fixed_dictionaries(
    {"strings": st.lists(SYMBOLS, max_size=2)},
    optional={
        "emotives": st.dictionaries(st.just("joy"), st.integers(-3, 3).map(float), max_size=1),
        "metadata": st.dictionaries(st.just("page"), st.integers(1, 3), max_size=1),
        "unique_id": st.sampled_from(["x", "y"]),
    },
)
FLAGS = ("learn_after_each", "learn_at_end", "clear_stm_between")
SEQUENCES: Bodies = st.fixed_dictionaries(
    {"observations": st.lists(OBSERVATIONS, min_size=1, max_size=3)}, optional={name: st.booleans() for name in FLAGS}
)
GENES: Bodies = st.fixed_dictionaries(
    {},
    optional={
        "max_pattern_length": st.integers(0, 3),
        "stm_mode": st.sampled_from(["CLEAR", "ROLLING"]),
        "persistence": st.integers(1, 3),
        "sort_symbols": st.booleans(),
    },
)
NAMES = st.sampled_from([pattern_name((("a",), ("b",))), pattern_name((("a", "b"),)), pattern_name((("c",), ("a",)))])
OPERATIONS: Mapping[Kind, str] = {
    "observe": "observe",
    "sequence": "observe_sequence",
    "learn": "learn",
    "clear": "clear_stm",
    "clear_all": "clear_all",
    "genes": "update_genes",
    "edit": "update_pattern",
    "forget": "delete_pattern",
    "stm": "stm",
    "pattern": "pattern",
    "status": "status",
    "config": "genes",
}
OPS = st.one_of(
    OBSERVATIONS.map(lambda body: Op(kind="observe", body=body)),
    SEQUENCES.map(lambda body: Op(kind="sequence", body=body)),
    st.sampled_from([Op(kind="learn"), Op(kind="learn"), Op(kind="clear"), Op(kind="clear_all"), Op(kind="stm")]),
    GENES.map(lambda body: Op(kind="genes", body=body)),
    st.builds(lambda name, count: Op(kind="edit", pattern=name, body={"frequency": count}), NAMES, st.integers(1, 9)),
    NAMES.map(lambda name: Op(kind="forget", pattern=name)),
    NAMES.map(lambda name: Op(kind="pattern", pattern=name)),
)


async def told(node: Node, session_id: str, op: Op, key: str | None = None) -> Answer:
    """Return what the node answers. Raises: StoreError."""
    call = Call(
        service=node.service,
        reads=node.reads,
        patterns=node.patterns,
        session_id=session_id,
        body=json.loads(json.dumps({"genes": op.body} if op.kind == "genes" else op.body)),
        arguments={"id": op.pattern} if op.pattern else {},
        retry=None if key is None else RetryKey(key=key, body_hash=str(op)),
    )
    try:
        return Answer(body=await HANDLERS[OPERATIONS[op.kind]](call))
    except (DomainError, ServiceError) as error:
        return Answer(code=error.code)


async def bound(disk: MemoryDisk, processor_id: str) -> Node:
    """Return a node that has taken the processor."""
    node = new_node(disk)
    await node.bind(BindSpec(processor_id=processor_id))
    return node


class Isolation(RuleBasedStateMachine):
    """Two nodes, and what each of them is to be."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.disks = {"p": MemoryDisk(), "q": MemoryDisk()}
        self.nodes: dict[str, Node] = {}
        self.models = {"p": ProcessorModel(), "q": ProcessorModel()}
        self.keys = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work comes to."""
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        """Bind both nodes and open all sessions."""
        for processor_id, disk in self.disks.items():
            self.nodes[processor_id] = self.run(bound(disk, processor_id))
        for session_id in PROCESSOR_OF:
            self.open(session_id, {})

    def expected(self, session_id: str, op: Op) -> Answer:
        """Return what the domain says, and go on from there."""
        processor_id = PROCESSOR_OF[session_id]
        self.models[processor_id], answer = applied(self.models[processor_id], session_id, op)
        return answer

    @rule(session_id=SESSIONS, op=OPS)
    def ask(self, session_id: str, op: Op) -> None:
        """Ask for an operation."""
        answer = self.run(told(self.nodes[PROCESSOR_OF[session_id]], session_id, op))
        expected = self.expected(session_id, op)
        assert matches(answer, expected), (op, answer, expected)

    @rule(ops=st.fixed_dictionaries(dict.fromkeys(PROCESSOR_OF, OBSERVATIONS)))
    def observe_at_once(self, ops: Mapping[str, dict[str, Any]]) -> None:
        """Have every session observe at the same time: nobody sees anything of anybody."""

        async def all_told() -> list[Answer]:
            return await asyncio.gather(
                *(
                    told(self.nodes[PROCESSOR_OF[name]], name, Op(kind="observe", body=body))
                    for name, body in ops.items()
                )
            )

        for (name, body), answer in zip(ops.items(), self.run(all_told()), strict=True):
            assert matches(answer, self.expected(name, Op(kind="observe", body=body)))

    @rule(session_id=SESSIONS, op=OPS, written=st.booleans())
    def ask_again(self, session_id: str, op: Op, written: bool) -> None:
        """Ask twice with one key, since nobody knows what became of the first commit."""
        processor_id, self.keys = PROCESSOR_OF[session_id], self.keys + 1
        disk, node = self.disks[processor_id], self.nodes[processor_id]
        commits = len(disk.commits)
        disk.fail_next_commit(CommitUnknown("lost"), written=written)
        answers = []
        for _ in range(2):
            try:
                answers.append(self.run(told(node, session_id, op, f"key-{self.keys}")))
            except CommitUnknown:
                assert len(disk.commits) == commits + written
        disk._failures.clear()  # where nothing was to be committed, nothing failed
        expected = self.expected(session_id, op)
        assert all(matches(answer, expected) for answer in answers if op.changes), (answers, expected)

    @rule(session_id=SESSIONS, op=OPS)
    def ask_in_vain(self, session_id: str, op: Op) -> None:
        """Ask while the storage is out of reach: nothing happens."""
        processor_id = PROCESSOR_OF[session_id]
        self.disks[processor_id].unavailable = True
        try:
            answer = self.run(told(self.nodes[processor_id], session_id, op))
        except StoreUnavailable:
            assert op.changes or op.kind == "pattern"
        else:
            assert not op.changes or answer.code is not None
        self.disks[processor_id].unavailable = False

    @rule(session_id=SESSIONS, config=GENES)
    def start_over(self, session_id: str, config: dict[str, Any]) -> None:
        """End the session, and open another of its id."""
        self.run(self.nodes[PROCESSOR_OF[session_id]].service.close_session(session_id, incarnation=None))
        self.expected(session_id, Op(kind="end"))
        self.open(session_id, config)

    def open(self, session_id: str, config: dict[str, Any]) -> None:
        """Open a session."""
        self.keys += 1
        service = self.nodes[PROCESSOR_OF[session_id]].service
        self.run(service.open_session(session_id, incarnation=str(self.keys), overrides=config))
        self.expected(session_id, Op(kind="create", body=config))

    @rule(processor_id=st.sampled_from(["p", "q"]), gently=st.booleans())
    def restart(self, processor_id: str, gently: bool) -> None:
        """Have another node take the processor; the one before is drained, or finds out by itself."""
        before = self.nodes[processor_id]
        if gently:
            self.run(before.drain())
        self.nodes[processor_id] = self.run(bound(self.disks[processor_id], processor_id))
        if not gently:
            self.run(before.drain())

    @rule(session_id=SESSIONS)
    def predicted(self, session_id: str) -> None:
        """Predict: from this session's STM and its processor's patterns alone."""
        processor_id = PROCESSOR_OF[session_id]
        model = self.models[processor_id]
        session = model.sessions[session_id]
        ltm = Ltm()
        ltm.apply(LtmChange(put=tuple(model.patterns.values())))
        ranking = shown(predict(session.state.stm, config=session.config, ltm=ltm.view()))
        answer = self.run(self.nodes[processor_id].reads.predictions(session_id))
        assert answer["predictions"] == ranking.predictions

    @invariant()
    def everybody_is_as_the_domain_says(self) -> None:
        """Compare all that every session shows."""
        for session_id, processor_id in PROCESSOR_OF.items() if self.nodes else ():
            model = self.models[processor_id]
            for kind in ("stm", "status", "config"):
                op = Op(kind=kind)
                answer = self.run(told(self.nodes[processor_id], session_id, op))
                assert matches(answer, applied(model, session_id, op)[1]), (session_id, kind, answer)

    def teardown(self) -> None:
        """Drain both nodes; nothing of them may be left."""
        for node in self.nodes.values():
            self.run(node.drain())
        self.runner.close()


TestIsolation = Isolation.TestCase
TestIsolation.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


async def test_a_hundred_sessions_at_once() -> None:
    """100 sessions on one node, all at once: each has its own STM and replies, and what they share adds up exactly."""
    disk = MemoryDisk()
    node = await bound(disk, "p")
    chance = random.Random(1)
    scripts: dict[str, list[Op]] = {}
    events = [Op(kind="observe", body={"strings": [symbol]}) for symbol in "ab"]
    for number in range(100):
        own = [Op(kind="observe", body={"strings": [f"{number}-{step}"]}) for step in range(chance.randint(1, 6))]
        shared = [Op(kind="clear"), *events, Op(kind="learn")]
        scripts[f"s{number}"] = [*shared, *own, *(shared if number % 2 else []), *own]

    async def worked(session_id: str, script: list[Op]) -> ProcessorModel:
        await node.service.open_session(session_id, incarnation="1", overrides={})
        alone = ProcessorModel(sessions={session_id: SessionModel(config=DEFAULT)})
        for op in script:
            alone, expected = applied(alone, session_id, op)
            assert matches(await told(node, session_id, op), expected)
        return alone

    models = await asyncio.gather(*(worked(name, script) for name, script in scripts.items()))
    for name, alone in zip(scripts, models, strict=True):
        answer = await told(node, name, Op(kind="stm"))
        assert json.loads(json.dumps(answer.body["stm"])) == [list(event) for event in alone.sessions[name].state.stm]
    learned = sum(alone.patterns[pattern_name((("a",), ("b",)))].frequency for alone in models)
    found = await told(node, "s0", Op(kind="pattern", pattern=pattern_name((("a",), ("b",)))))
    assert (learned, found.body["pattern"]["frequency"]) == (150, 150)  # type: ignore[call-overload, index]
    await node.drain()

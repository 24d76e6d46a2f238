"""The checker: what it must pass, and what it must find."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.checker import check
from tests.chaos.history import History
from tests.chaos.model import Answer, ProcessorModel, applied
from tests.chaos.operations import Body, Op

CREATE = Op(kind="create")
STM = Op(kind="stm")
LEARN = Op(kind="learn")


def seen(symbol: str) -> Op:
    """Return the observation of a symbol."""
    return Op(kind="observe", body={"strings": [symbol]})


class Clients:
    """Clients of one processor that is as the model says, unless it is told otherwise."""

    def __init__(self) -> None:
        self.history = History()
        self.model = ProcessorModel()

    def call(self, op: Op, session: str = "s", *, effect: int = 1, told: Body | None = None) -> None:
        """Ask for an operation, which takes effect so often; its client is told what the model says, or this."""
        call = self.history.invoke(session, "p", op)
        answer = applied(self.model, session, op)[1]
        for _ in range(effect):
            self.model, _ = applied(self.model, session, op)
        self.history.answer(call, answer if told is None else Answer(body=told))

    def unanswered(self, op: Op, session: str = "s", *, effect: int) -> None:
        """Ask for an operation that nobody answers."""
        self.history.invoke(session, "p", op)
        for _ in range(effect):
            self.model, _ = applied(self.model, session, op)


def clients() -> Clients:
    """Return the clients of a session that has learned a pattern of two."""
    known = Clients()
    for op in (CREATE, seen("a"), seen("b"), LEARN):
        known.call(op)
    return known


def name() -> str:
    """Return the bare name of that pattern."""
    known = clients()
    return next(iter(known.model.patterns))


def test_what_the_domain_does_is_right() -> None:
    """A history that the domain itself has answered is clean."""
    known = clients()
    for op in (seen("c"), STM, Op(kind="pattern", pattern=name()), Op(kind="status"), Op(kind="end"), CREATE, STM):
        known.call(op)
    assert check(known.history.calls).words == ()


def test_a_lost_observation_is_found() -> None:
    """An acknowledged observation without effect is lost."""
    known = clients()
    known.call(seen("c"), effect=0)
    known.call(seen("d"))
    known.call(STM)
    assert check(known.history.calls).lost == 1


def test_a_doubled_learn_is_found() -> None:
    """A learn that has counted twice is doubled, though every STM is right."""
    known = clients()
    known.call(seen("a"))
    known.call(seen("b"))
    known.call(LEARN)
    pattern = known.model.patterns[name()]
    known.model = replace(known.model, patterns={name(): replace(pattern, frequency=pattern.frequency + 1)})
    known.call(Op(kind="pattern", pattern=name()))
    assert check(known.history.calls).words != ()


def test_a_doubled_observation_is_found() -> None:
    """An observation that was applied twice is doubled."""
    known = clients()
    known.call(seen("c"), effect=2)
    known.call(seen("d"))
    known.call(STM)
    assert check(known.history.calls).doubled == 1


def test_overtaking_is_found() -> None:
    """Two operations of one session in another order than their client's are reordered."""
    known = Clients()
    known.call(CREATE)
    first = known.history.invoke("s", "p", seen("a"))
    second = known.history.invoke("s", "p", seen("b"))
    for call, length in ((second, 1), (first, 2)):
        known.model, answer = applied(known.model, "s", call.op)
        known.history.answer(call, answer)
        assert answer.body["stm_length"] == length
    known.call(STM)
    assert check(known.history.calls).reordered == 1


@pytest.mark.parametrize("effect", [0, 1])
def test_what_nobody_answered_may_have_happened(effect: int) -> None:
    """A call without an answer is applied or not: both are right."""
    known = clients()
    known.unanswered(seen("c"), effect=effect)
    known.call(seen("d"))
    known.call(STM)
    assert check(known.history.calls).words == ()


def test_what_nobody_answered_happens_once() -> None:
    """A call without an answer that was applied twice is found."""
    known = clients()
    known.unanswered(seen("c"), effect=2)
    known.call(STM)
    assert check(known.history.calls).words != ()


def test_sessions_share_patterns_and_nothing_else() -> None:
    """Calls of two sessions at once may have happened in either order; what both learned counts twice."""
    known = clients()
    known.call(CREATE, "t")
    for session in ("s", "t"):
        for op in (seen("a"), seen("b")):
            known.call(op, session)
    one = known.history.invoke("s", "p", LEARN)
    other = known.history.invoke("t", "p", LEARN)
    for call in (other, one):
        known.model, answer = applied(known.model, call.session_id, call.op)
        known.history.answer(call, answer)
    known.call(Op(kind="pattern", pattern=name()))
    assert known.model.patterns[name()].frequency == 3
    assert check(known.history.calls).words == ()


def test_a_stale_answer_is_found() -> None:
    """A read that knows nothing of what was acknowledged before is found, unless it says that it may be stale."""
    stale: Body = {"stm": [], "length": 0}
    for body, found in ((stale, True), ({**stale, "degraded": True}, False)):
        known = clients()
        known.call(seen("c"))
        known.call(STM, told=body)
        assert bool(check(known.history.calls).words) is found

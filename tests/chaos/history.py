"""What the clients of a run did and were told, with the order in which it happened."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from tests.chaos.model import Answer
from tests.chaos.operations import Op


@dataclass(slots=True, kw_only=True)
class Call:
    """One operation as its client saw it, however often it was sent.

    Attributes:
        processor_id: of the session.
        invoked: when it was sent first; answered: when its client knew. Both count what happens in the run.
        answer: None: nobody answered, and its client has given up. It may have been applied, once, or not at all.
        tries: how often it was sent; last: what came of the last try.
    """

    session_id: str
    processor_id: str
    op: Op
    invoked: int
    answered: int | None = None
    answer: Answer | None = None
    tries: int = 0
    last: str = ""

    def __str__(self) -> str:
        told = f"never answered, at last {self.last}" if self.answer is None else str(self.answer)
        return f"{self.session_id} [{self.invoked}-{self.answered}, {self.tries} x] {self.op} -> {told}"


@dataclass(slots=True)
class History:
    """The calls of a run, in the order in which they were invoked; of one session: the order that its client means."""

    calls: list[Call] = field(default_factory=list)
    _ticks: itertools.count[int] = field(default_factory=itertools.count)

    def invoke(self, session_id: str, processor_id: str, op: Op) -> Call:
        """Note that an operation is about to be sent."""
        call = Call(session_id=session_id, processor_id=processor_id, op=op, invoked=next(self._ticks))
        self.calls.append(call)
        return call

    def answer(self, call: Call, answer: Answer) -> None:
        """Note what its client was told."""
        call.answered = next(self._ticks)
        call.answer = answer

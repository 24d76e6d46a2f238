"""A client of a run: it chooses a key for each operation and repeats it until it is told what became of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from tests.chaos.history import Call, History
from tests.chaos.model import Answer
from tests.chaos.operations import Op
from tests.chaos.plan import MOTIF_NAMES, SessionPlan

# Refusals that are about the moment: nothing is known of the call, and it is to be repeated.
AGAIN = frozenset(
    {
        "CAPACITY_REACHED",
        "NODE_FAILED",
        "NODE_TIMEOUT",
        "PROCESSOR_FENCED",
        "RATE_LIMITED",
        "RUNTIME_UNAVAILABLE",
        "STORAGE_UNAVAILABLE",
        "WRONG_NODE",
    }
)
_GONE = frozenset({"SESSION_NOT_FOUND", "SESSION_EXPIRED"})
_PAUSES_S = (0.02, 0.5)


class Broken(Exception):
    """A call that nobody answered."""


class Unusable(Exception):
    """A session that answered nobody for so long that it must be taken for lost."""


class Line(Protocol):
    """A client's way in."""

    async def call(self, session: SessionPlan, op: Op, key: str) -> Answer:
        """Send it once. Raises: Broken."""


class Client:
    """Works off one session's script."""

    def __init__(
        self, line: Line, plan: SessionPlan, history: History, *, invoked: Callable[[], None], patience_s: float
    ) -> None:
        self._line = line
        self._plan = plan
        self._history = history
        self._invoked = invoked
        self._patience_s = patience_s
        self._chance = random.Random(plan.session_id)
        self._number = 0

    async def work(self, script: Iterable[Op]) -> None:
        """Have each operation answered, one after the other. Raises: Unusable."""
        for op in script:
            self._number += 1
            call = self._history.invoke(self._plan.session_id, self._plan.processor_id, op)
            self._invoked()
            try:
                async with asyncio.timeout(self._patience_s):
                    answer = await self._told(call, f"{self._plan.session_id}-{self._number}")
            except TimeoutError:
                raise Unusable(f"for {self._patience_s} s: {call}") from None
            if answer is not None:
                self._history.answer(call, answer)

    async def _told(self, call: Call, key: str) -> Answer | None:
        while True:
            call.tries += 1
            try:
                answer = await self._line.call(self._plan, call.op, key)
            except Broken as broken:
                call.last = repr(broken.__cause__ or broken)
            else:
                call.last = str(answer)
                if call.op.kind == "end" and call.tries > 1 and answer.code in _GONE:
                    return Answer()
                if answer.code not in AGAIN and not (call.op.kind in {"create", "end"} and answer.code == "CONFLICT"):
                    return answer
            if not call.op.patient:
                return None
            await asyncio.sleep(self._chance.uniform(*_PAUSES_S))


def audit(plan: SessionPlan, history: History) -> Sequence[Op]:
    """Return what a session is asked at the end: whether it still works, and for all that it and its processor have."""
    names = {*MOTIF_NAMES, *_learned(call for call in history.calls if call.processor_id == plan.processor_id)}
    return [
        Op(kind="observe", body={"strings": ["the end"], "unique_id": "the end"}),
        Op(kind="stm"),
        Op(kind="config"),
        Op(kind="status"),
        *(Op(kind="pattern", pattern=name) for name in sorted(names)),
    ]


def _learned(calls: Iterable[Call]) -> Iterable[str]:
    """Yield the bare names of the patterns that clients were told of."""
    for call in calls:
        body = {} if call.answer is None else call.answer.body
        on_the_way = body.get("auto_learned_patterns") or ()
        assert isinstance(on_the_way, list | tuple)
        for name in (
            body.get("auto_learned_pattern"),
            body.get("pattern_name"),
            body.get("final_learned_pattern"),
            *on_the_way,
        ):
            if isinstance(name, str) and name:
                yield name.removeprefix("PTRN|")

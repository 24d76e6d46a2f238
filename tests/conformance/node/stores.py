"""The stores under test, each behind the same small surface; and the values that the tests store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from kato_node.domain.ltm import LtmChange
from kato_node.domain.state import EMPTY, Json, Percept, SessionState
from kato_node.store.base import Batch, Operation, SessionRecord, SessionWrite, Store

# Makes a new store of a processor on the same data, as another process would.
MakeStore = Callable[[str], Store]


class OpenStore(Protocol):
    """Opens a new store of a processor."""

    async def __call__(self, processor_id: str = "p") -> Store:
        """Return it, open."""


def record(session_id: str = "s", state: SessionState = EMPTY, **fields: object) -> SessionRecord:
    """Return a session's record, plain but for what is given."""
    plain = SessionRecord(session_id=session_id, incarnation="1", state=state, overrides=(), operations=())
    return replace(plain, **fields)  # type: ignore[arg-type]


def write(before: SessionRecord | None, after: SessionRecord | None) -> SessionWrite:
    """Return the write between two records of one session."""
    known = after or before
    assert known is not None
    return SessionWrite(session_id=known.session_id, before=before, after=after)


def batch(*sessions: SessionWrite, ltm: tuple[LtmChange, ...] = ()) -> Batch:
    """Return one transaction."""
    return Batch(sessions=sessions, ltm=ltm)


def operation(number: int, reply: str = "{}") -> Operation:
    """Return a remembered operation."""
    return Operation(number=number, key=f"key {number}", body_hash=f"{number:064x}", reply=reply)


def nested(depth: int) -> Json:
    """Return JSON nested that deep, as lists and objects by turns."""
    value: Json = "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"$odd.key": value}
    return value


RICH = SessionState(
    stm=(("", "a", "a"), ("é", "日本", "a\nb", "nul\0", "'\""), ("🙂",)),
    event_times=(2, 3, 7),
    time=9,
    emotives=((2, {"joy": 0.1, "fear": -1e100}), (4, {"ärger": 5e-324})),
    metadata=(
        (3, {"plain": 1, "float": 1.0, "true": True, "none": None, "big": 2**63 - 1, "small": -(2**63)}),
        (9, {"tree": nested(98), "": [], "odd": {"$set": {"a.b": 1, "": {"\0": "nul"}}}}),
    ),
    percept=Percept(
        strings=("z",), vectors=((0.1, 2.0), (1e-300, -0.5)), emotives={"joy": 1.0}, metadata={"deep": nested(97)}
    ),
    vectors=((0.1 + 0.2, 1 / 3), (1e100, 5e-324)),
)

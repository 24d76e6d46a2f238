"""What the clients of a chaos run ask for: each operation as a value, and how HTTP and WebSocket spell it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Body: TypeAlias = Mapping[str, Json]
Kind: TypeAlias = Literal[
    "observe",
    "sequence",
    "learn",
    "clear",
    "clear_all",
    "genes",
    "edit",
    "forget",
    "stm",
    "pattern",
    "status",
    "config",
    "create",
    "end",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How one kind of operation is sent.

    Attributes:
        method, tail: of the request; `{pattern}` in the tail stands for the operation's pattern.
        message: the type of its WebSocket message, None where there is none.
        keyed: it takes an Idempotency-Key.
    """

    method: str
    tail: str
    message: str | None = None
    keyed: bool = True


SPELLINGS: Mapping[Kind, Spelling] = {
    "observe": Spelling(method="POST", tail="/observe", message="observe"),
    "sequence": Spelling(method="POST", tail="/observe-sequence", message="observe_sequence"),
    "learn": Spelling(method="POST", tail="/learn", message="learn"),
    "clear": Spelling(method="POST", tail="/clear-stm", message="clear_stm"),
    "clear_all": Spelling(method="POST", tail="/clear-all", message="clear_all"),
    "genes": Spelling(method="POST", tail="/genes/update"),
    "edit": Spelling(method="PUT", tail="/pattern/{pattern}"),
    "forget": Spelling(method="DELETE", tail="/pattern/{pattern}"),
    "stm": Spelling(method="GET", tail="/stm", message="get_stm", keyed=False),
    "pattern": Spelling(method="GET", tail="/pattern/{pattern}", keyed=False),
    "status": Spelling(method="GET", tail="/status", keyed=False),
    "config": Spelling(method="GET", tail="/genes", keyed=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One operation of a session; `create` and `end` are the gateway's own and have no spelling.

    Attributes:
        pattern: the bare name of the pattern that it is about.
        patient: its client repeats it until it is answered; else it walks away after the first call that broke off.
    """

    kind: Kind
    body: Body = field(default_factory=dict)
    pattern: str = ""
    patient: bool = True

    @property
    def spelling(self) -> Spelling:
        """How it is sent."""
        return SPELLINGS[self.kind]

    @property
    def tail(self) -> str:
        """The end of its path."""
        return self.spelling.tail.format(pattern=self.pattern)

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self.kind in {"create", "end"} or self.spelling.keyed

    def __str__(self) -> str:
        body = json.dumps(self.body, separators=(",", ":")) if self.body else ""
        return f"{self.kind}{' ' + self.pattern[:6] if self.pattern else ''}{' ' + body if body else ''}"

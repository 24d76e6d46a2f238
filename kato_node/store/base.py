"""The protocol that every store obeys; tests/conformance holds each of them to it.

A store keeps one processor: its epoch, its patterns and learned vectors, and the state of each of its sessions. It has
one writer, which owns the epoch; whatever the writer commits is one transaction that begins with the fence.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kato_node.domain.config import Config
from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import LtmChange
from kato_node.domain.state import SessionState


class StoreError(Exception):
    """The store did not do what it was asked.

    Attributes:
        retry_after_s: when another try makes sense.
    """

    code = "STORAGE_UNAVAILABLE"
    retry_after_s = 1.0

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = {}


class StoreUnavailable(StoreError):
    """The store cannot be reached or refused, and nothing was written: full disk, no connection, time-out."""


class StoreFull(StoreUnavailable):
    """The store has no room: nothing was written, and the same call succeeds once there is some."""

    retry_after_s = 5.0


class StoreUnreachable(StoreUnavailable):
    """There is no way to the store just now: whoever asks again may find it."""


class CommitUnknown(StoreError):
    """The commit was sent and no answer came: it may or may not be durable. Reload before the next turn."""


class Fenced(StoreError):
    """Another owner has taken the epoch: nothing was written, and this one must stop."""

    code = "PROCESSOR_FENCED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A mutating call that a session remembers, so that the same key again gives the first reply.

    Attributes:
        number: 1, 2, … in the order of the session's remembered operations; the newest are consecutive.
        key: the caller's Idempotency-Key, 1..255 printable ASCII characters.
        body_hash: hex SHA-256 over the operation's name and its canonical body.
        reply: the JSON text of the reply's body; None where only the store keeps it (see `kept_in_memory`).
    """

    number: int
    key: str
    body_hash: str
    reply: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """One session as stored.

    Attributes:
        incarnation: tells a session from an ended one of the same id; opening with another one starts afresh.
        overrides: the config values that the session set itself, by name; the rest are the node's defaults.
        operations: the remembered operations, oldest first, at most 64.
    """

    session_id: str
    incarnation: str
    state: SessionState
    overrides: tuple[tuple[str, object], ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWrite:
    """What one commit changes of one session: from `before` (None: it did not exist) to `after` (None: it ends).

    A store writes the difference, so that the bytes of an observe do not grow with the STM.
    """

    session_id: str
    before: SessionRecord | None
    after: SessionRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One transaction: session and LTM changes in the order in which they were decided."""

    sessions: Sequence[SessionWrite]
    ltm: Sequence[LtmChange]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorRecord:
    """What a store knows of the processor itself; `epoch` is 0 before the first bind."""

    processor_id: str
    epoch: int
    dimension: int | None


class Store(Protocol):
    """The storage of one processor."""

    async def open(self) -> None:
        """Connect, and create what is missing. Raises: StoreUnavailable, with what to do about it."""

    async def close(self) -> None:
        """Let go of every connection, file and thread. Idempotent."""

    async def bind(self) -> ProcessorRecord:
        """Take the processor: epoch += 1, durably; creates the record at its first bind. Raises: StoreUnavailable."""

    async def read_epoch(self) -> int:
        """Return the epoch as it stands in the store (majority). Raises: StoreUnavailable."""

    def load_patterns(self) -> AsyncIterator[Pattern]:
        """Yield every pattern, in any order. Raises: StoreUnavailable."""

    def load_vectors(self) -> AsyncIterator[tuple[str, tuple[float, ...]]]:
        """Yield every learned vector as (symbol, values). Raises: StoreUnavailable."""

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """Return the session as last committed, None if there is none. Raises: StoreUnavailable."""

    async def load_reply(self, session_id: str, number: int) -> str | None:
        """Return the whole reply of the session's operation of that number, None if there is none.

        Raises: StoreUnavailable.
        """

    async def session_ids(self) -> Sequence[str]:
        """Return the ids of all stored sessions, sorted. Raises: StoreUnavailable."""

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """Write the whole batch durably, or nothing, if `epoch` is still the store's.

        An empty batch is a barrier: once it has committed, no earlier commit of unknown outcome is still on its way.
        Raises: Fenced, StoreUnavailable (nothing written), CommitUnknown (either).
        """


# A session's config is stored as its overrides; this is how it becomes effective.
def effective(defaults: Config, overrides: Sequence[tuple[str, object]]) -> Config:
    """Return the defaults with the session's own values on top. Raises: ValidationFailed for a bad stored value."""
    return defaults.updated(dict(overrides))


REPLY_CHARACTERS_MAX = 4096


# A session remembers many operations, and a sequence's reply may be long.
def kept_in_memory(operation: Operation) -> Operation:
    """Return the operation as a node keeps it, and as `load_session` returns it: a long reply stays in the store."""
    if operation.reply is None or len(operation.reply) <= REPLY_CHARACTERS_MAX:
        return operation
    return replace(operation, reply=None)

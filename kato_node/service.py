"""What changes a session or the LTM: each call runs as a task of its own that no cancellation of its caller tears apart.

The turn of the session (in order of arrival), the pure decision, the commit through the one writer, the assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kato_node.domain.config import Config
from kato_node.domain.limits import Limits
from kato_node.domain.observation import Observation
from kato_node.domain.state import Json

Reply = dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryKey:
    """Makes a mutating call repeatable: see Operation in store/base.py for both values."""

    key: str
    body_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRequest:
    """The observations of one call, applied all or none, and what is learned or cleared between them."""

    observations: Sequence[Observation]
    learn_after_each: bool = False
    learn_at_end: bool = False
    clear_stm_between: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A session as its callers see it; `config` is effective, `created` whether this call made it."""

    session_id: str
    config: Config
    created: bool
    stm_length: int
    time: int


class ProcessorService:
    """The mutating operations of one bound processor (api.md, section 1).

    Every call may raise: SessionNotFound, TooManyCalls, and of the store StoreUnavailable (nothing applied),
    CommitUnknown (applied or not: repeat with the same key), Fenced. Any session_id may be None: the processor's own
    session, or the session `default`, which is made at its first use.
    """

    processor_id: str
    processor_name: str
    epoch: int
    defaults: Config
    limits: Limits
    own_session: str | None

    @property
    def session_ids(self) -> Sequence[str]:
        """The ids of all sessions of the processor, sorted."""
        raise NotImplementedError

    async def open_session(self, session_id: str, *, incarnation: str, overrides: Mapping[str, object]) -> SessionView:
        """Return the session, made now if it did not exist or was of another incarnation. Idempotent.

        Raises: ValidationFailed (overrides), TooManySessions.
        """
        raise NotImplementedError

    async def close_session(self, session_id: str) -> None:
        """Delete the session's records; patterns stay. Idempotent: an unknown session is no error."""
        raise NotImplementedError

    async def observe(
        self, session_id: str | None, observation: Observation, *, retry: RetryKey | None = None
    ) -> Reply:
        """Apply one observation. Raises: ValidationFailed, VectorDimensionMismatch, MemoryTooLarge,
        IdempotencyKeyReused.
        """
        raise NotImplementedError

    async def observe_sequence(
        self, session_id: str | None, request: SequenceRequest, *, retry: RetryKey | None = None
    ) -> Reply:
        """Apply all observations or none. Raises: as observe; ValidationFailed names `observations.<index>.<field>`."""
        raise NotImplementedError

    async def learn(self, session_id: str | None, *, retry: RetryKey | None = None) -> Reply:
        """Learn the STM and empty it. Raises: VectorDimensionMismatch, MemoryTooLarge, IdempotencyKeyReused."""
        raise NotImplementedError

    async def clear_stm(self, session_id: str | None, *, retry: RetryKey | None = None) -> Reply:
        """Empty the session's state. Raises: IdempotencyKeyReused."""
        raise NotImplementedError

    async def clear_all(self, session_id: str | None, *, retry: RetryKey | None = None) -> Reply:
        """Empty the session's state and the LTM. Raises: IdempotencyKeyReused."""
        raise NotImplementedError

    async def update_genes(
        self, session_id: str | None, genes: Mapping[str, object], *, retry: RetryKey | None = None
    ) -> Reply:
        """Change the session's config, wholly or not at all. Raises: ValidationFailed, IdempotencyKeyReused."""
        raise NotImplementedError

    def subscribe(self, session_id: str | None, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call back with each pattern name (`PTRN|…`) that the session learns, after its commit, on the event loop.

        Returns: what ends the subscription. Raises: SessionNotFound.
        """
        raise NotImplementedError

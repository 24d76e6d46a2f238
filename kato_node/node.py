"""One node's life: unbound, bound once to one processor, drained, gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from kato_node.domain.config import Config
from kato_node.domain.limits import Limits
from kato_node.reads import ProcessorReads
from kato_node.service import ProcessorService, SessionView
from kato_node.store.base import Store

NodeState = Literal["unbound", "binding", "bound", "draining"]
StopReason = Literal["idle", "fenced", "drained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A session to open at the bind: see ProcessorService.open_session."""

    session_id: str
    incarnation: str
    overrides: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BindSpec:
    """What a node is bound to: see wire.control.BindRequest."""

    processor_id: str
    idle_timeout_s: float = 0.0
    session: Opening | None = None
    own_session: bool = False
    ended_sessions: tuple[str, ...] = ()


class Node:
    """The one owner of a processor's memory.

    Attributes:
        node_id: its own id, for life.
        stopped: set once the node has finished: stop serving, exit 0.
        stop_reason: why, once it drains.
    """

    node_id: str
    stopped: asyncio.Event
    stop_reason: StopReason | None

    def __init__(
        self,
        *,
        node_id: str,
        open_store: Callable[[str], Store],
        defaults: Config,
        limits: Limits,
        processor_name: str | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def state(self) -> NodeState:
        """Where the node is in its life."""
        raise NotImplementedError

    @property
    def service(self) -> ProcessorService:
        """The mutating operations. Raises: WrongNode unless bound."""
        raise NotImplementedError

    @property
    def reads(self) -> ProcessorReads:
        """The reading operations. Raises: WrongNode unless bound."""
        raise NotImplementedError

    async def bind(self, spec: BindSpec) -> SessionView | None:
        """Take the processor, load it, open the first session. On an error the node is unbound again.

        Raises: AlreadyBound, StoreUnavailable, ValidationFailed (the session's config).
        """
        raise NotImplementedError

    def activity(self) -> AbstractContextManager[None]:
        """Count one operation in flight: `with node.activity(): …`; not for pings, health or idle sockets."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Take no new operation, finish those in flight, flush, let go of the store; sets `stopped`. Idempotent."""
        raise NotImplementedError

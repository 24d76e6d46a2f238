"""One node's life: unbound, bound once to one processor, drained, gone."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar, cast

from kato_node.domain.config import Config
from kato_node.domain.errors import DomainError
from kato_node.domain.limits import Limits
from kato_node.errors import AlreadyBound, IllegalMove, ServiceError, WrongNode
from kato_node.guard import GuardedStore
from kato_node.patterns import ProcessorPatterns
from kato_node.processor import Processor, Setup, take
from kato_node.reads import ProcessorReads
from kato_node.replies import Reply
from kato_node.service import ProcessorService, SessionView
from kato_node.store.base import Store
from kato_node.transfer import ProcessorTransfer

log = logging.getLogger(__name__)

T = TypeVar("T")
_STATM = Path("/proc/self/statm")

# A gateway asks its pool's members every 10 s, and one that is started again is back within seconds.
UNASKED_MAX_S = 60.0
DRAIN_MAX_S = 7.0  # whoever asked for it has its own patience: 10 s, as a rule, the last replies included

NodeState = Literal["unbound", "binding", "bound", "draining"]
StopReason = Literal["idle", "fenced", "drained"]

# Bound once, for life: a node that has served a processor never serves another. A bind that failed has served nobody.
MOVES: Mapping[NodeState, frozenset[NodeState]] = {
    "unbound": frozenset({"binding", "draining"}),
    "binding": frozenset({"bound", "unbound"}),
    "bound": frozenset({"draining"}),
    "draining": frozenset(),
}


def boot_clock_s() -> float:
    """Return monotonic seconds that a suspended machine does not stop, where there is such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


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
    ended_sessions: tuple[tuple[str, str], ...] = ()  # id and incarnation
    purge: bool = False
    token_key: str | None = field(default=None, repr=False)


class Node:
    """The one owner of a processor's memory.

    Args:
        open_store: makes the store of a processor, which the node opens and closes.
        processor_name: shown by /status; None: the processor's id.
        clock_s: monotonic seconds, which go on while the process, or the machine, is stopped.
        drain_max_s: for how long a drain waits for what is not applied yet, such as a body that only drips in, or a
            store that does not answer.
        unasked_max_s: for how long it waits, unbound, for whoever may bind it to ask again: see `await_bind`.

    Attributes:
        node_id: its own id, for life.
        stopped: set once the node has finished: stop serving, exit 0.
        stop_reason: why, once it drains.
        gave_up: whether it stopped without an answer of the store: of a call, or of its own bind.
        token_key: of the processor that it is bound to; None: it was given none.
    """

    def __init__(
        self,
        *,
        node_id: str,
        open_store: Callable[[str], Store],
        defaults: Config,
        limits: Limits,
        processor_name: str | None = None,
        clock_s: Callable[[], float] = boot_clock_s,
        drain_max_s: float = DRAIN_MAX_S,
        unasked_max_s: float = UNASKED_MAX_S,
    ) -> None:
        self.node_id = node_id
        self.stopped = asyncio.Event()
        self.stop_reason: StopReason | None = None
        self.gave_up = False
        self.token_key: str | None = None
        self._open_store = open_store
        self._defaults = defaults
        self._limits = limits
        self._processor_name = processor_name
        self._clock_s = clock_s
        self._drain_max_s = drain_max_s
        self._unasked_max_s = unasked_max_s
        self._started_s = clock_s()
        self._state: NodeState = "unbound"
        self._processor: Processor | None = None
        self._store: GuardedStore | None = None
        self._activity = _Activity(clock_s)
        self._tasks: set[asyncio.Task[object]] = set()
        self._idle_watch: asyncio.Task[None] | None = None
        self._asked_s = clock_s()

    @property
    def state(self) -> NodeState:
        """Where the node is in its life."""
        return self._state

    @property
    def service(self) -> ProcessorService:
        """The mutating operations. Raises: WrongNode unless bound."""
        return self._bound().service

    @property
    def reads(self) -> ProcessorReads:
        """The reading operations. Raises: WrongNode unless bound."""
        return self._bound().reads

    @property
    def patterns(self) -> ProcessorPatterns:
        """The operations on patterns themselves. Raises: WrongNode unless bound."""
        return self._bound().patterns

    @property
    def transfer(self) -> ProcessorTransfer:
        """Export and import. Raises: WrongNode unless bound."""
        return self._bound().transfer

    @property
    def idle_s(self) -> float:
        """For how long there has been no operation, in seconds; 0 while there is one."""
        return self._activity.idle_s()

    @asynccontextmanager
    async def operation(self) -> AsyncIterator[None]:
        """Count one operation in flight: `async with node.operation(): …`; not for pings, health or idle sockets.

        What refuses it is an answer too, and leaves like every answer (architecture.md, decision 5): on the owner's
        word alone. Raises: Fenced in its place.
        """
        with self._activity:
            try:
                yield
            except (DomainError, ServiceError):
                if self._processor is not None:
                    await self._processor.vouch()
                raise

    def health(self, session_id: str | None = None) -> Reply:
        """Return {status, processor_id, uptime (s), stm_length, memory_usage (bytes)}, bound or not; asks nobody.

        stm_length is 0 for a session that nobody has asked for since the node started: it is not loaded yet.
        """
        processor = self._processor
        return {
            "status": "healthy",
            "processor_id": None if processor is None else processor.service.processor_id,
            "uptime": self._clock_s() - self._started_s,
            "stm_length": 0 if processor is None else processor.reads.stm_length(session_id),
            "memory_usage": resident_bytes(),
        }

    async def bind(self, spec: BindSpec) -> SessionView | None:
        """Take the processor, load it, open the first session. On an error the node is unbound again.

        A cancelled caller does not stop it.
        Raises: AlreadyBound, StoreError, ValidationFailed (the session's config).
        """
        if self._state != "unbound":
            raise AlreadyBound(f"This node is {self._state}; a node is bound once.")
        self._move("binding")
        return await asyncio.shield(self._spawn(self._bind(spec)))

    def await_bind(self) -> None:
        """From now on be idle, while unbound, once this has not been called again for `unasked_max_s`."""
        self._asked_s = self._clock_s()
        if self._state == "unbound" and self._idle_watch is None:
            self._idle_watch = self._spawn(self._watch_asking())

    async def drain(self) -> None:
        """Take no new operation, finish those in flight, flush, let go of the store; sets `stopped`. Idempotent."""
        self._begin_drain("drained")
        await self.stopped.wait()

    async def _bind(self, spec: BindSpec) -> SessionView | None:
        try:
            processor = await self._take(spec)
            try:
                view = await _prepare(processor, spec)
            except BaseException:
                await processor.stop()
                raise
        except BaseException:
            self._move("unbound")
            raise
        else:
            self._processor = processor
            self.token_key = spec.token_key
            self._move("bound")
            if self._idle_watch is not None:
                self._idle_watch.cancel()
            self._activity.restart()  # a node may have waited in the pool for longer than it may idle
            if spec.idle_timeout_s > 0:
                self._idle_watch = self._spawn(self._watch_idleness(spec.idle_timeout_s))
            return view
        finally:
            if self.stop_reason is not None:  # asked for meanwhile
                self._begin_drain(self.stop_reason)

    async def _take(self, spec: BindSpec) -> Processor:
        store = self._store = GuardedStore(self._open_store(spec.processor_id), clock_s=self._clock_s)
        own_session = spec.session.session_id if spec.own_session and spec.session is not None else None
        setup = Setup(
            processor_name=self._processor_name or spec.processor_id,
            own_session=own_session,
            defaults=self._defaults,
            limits=self._limits,
            started_s=self._started_s,
            clock_s=self._clock_s,
            lost=lambda: self._begin_drain("fenced"),
        )
        try:
            await store.open()
            return await take(store, setup)
        except BaseException:
            await store.close()
            raise

    async def _watch_asking(self) -> None:
        while self._state in {"unbound", "binding"}:
            if self._state == "binding":
                self._asked_s = self._clock_s()
            wait_s = self._asked_s + self._unasked_max_s - self._clock_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            else:
                self._begin_drain("idle")

    async def _watch_idleness(self, timeout_s: float) -> None:
        while self._state == "bound":
            wait_s = timeout_s - self._activity.idle_s()
            if wait_s <= 0:
                self._begin_drain("idle")
            else:
                await asyncio.sleep(wait_s)

    def _begin_drain(self, reason: StopReason) -> None:
        """Leave service now, and finish in the background; while binding, note that it is wanted."""
        self.stop_reason = self.stop_reason or reason
        if self._state in {"unbound", "bound"}:
            self._move("draining")
            log.info("draining", extra={"node_id": self.node_id, "reason": self.stop_reason})
            self._spawn(self._finish())
        elif self._state == "binding":
            asyncio.get_running_loop().call_later(self._drain_max_s, self._give_up)

    def _give_up(self) -> None:
        """Wait for the store no longer: what it has not answered is answered as unknown, or as not applied."""
        if self._store is not None and self._store.give_up():
            self.gave_up = True

    async def _finish(self) -> None:
        if self._idle_watch is not None:
            self._idle_watch.cancel()
        try:
            try:
                async with asyncio.timeout(self._drain_max_s):
                    await self._activity.quiet()
                    if self._processor is not None:
                        await self._processor.finish()
            except TimeoutError:
                self._give_up()
                facts = {"node_id": self.node_id, "after_s": self._drain_max_s, "store_silent": self.gave_up}
                log.warning("drain_cut", extra=facts)
            if self._processor is not None:
                await self._processor.stop()
        except Exception:
            log.exception("stop_failed", extra={"node_id": self.node_id})
        finally:
            self.stopped.set()

    def _bound(self) -> Processor:
        if self._processor is None or self._state != "bound":
            raise WrongNode(f"This node is {self._state}; ask the gateway for the session's node.")
        return self._processor

    def _move(self, state: NodeState) -> None:
        if state not in MOVES[self._state]:
            raise IllegalMove((self._state, state))
        self._state = state

    def _spawn(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(cast("asyncio.Task[object]", task))  # the loop itself does not keep tasks alive
        task.add_done_callback(self._tasks.discard)
        return task


class _Activity(AbstractContextManager[None]):
    """Counts the operations in flight. Entered by many at once."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._in_flight = 0
        self._clock_s = clock_s
        self._last_s = clock_s()
        self._quiet = asyncio.Event()
        self._quiet.set()

    def __enter__(self) -> None:
        self._in_flight += 1
        self._quiet.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_flight -= 1
        self._last_s = self._clock_s()
        if not self._in_flight:
            self._quiet.set()

    def restart(self) -> None:
        """Count from now, as if an operation had just ended."""
        self._last_s = self._clock_s()

    def idle_s(self) -> float:
        """Return for how long there has been no operation."""
        return 0.0 if self._in_flight else self._clock_s() - self._last_s

    async def quiet(self) -> None:
        """Return once no operation is in flight."""
        await self._quiet.wait()


async def _prepare(processor: Processor, spec: BindSpec) -> SessionView | None:
    """Delete what is to be deleted of the time when no node was there, and open the first session."""
    service = processor.service
    if spec.purge:
        await processor.purge()
    for session_id, incarnation in spec.ended_sessions:
        await service.close_session(session_id, incarnation=incarnation)
    if spec.session is None:
        return None
    opening = spec.session
    return await service.open_session(
        opening.session_id, incarnation=opening.incarnation, overrides=dict(opening.overrides)
    )


def resident_bytes() -> int:
    """Return this process's resident memory; 0 where there is no /proc."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")

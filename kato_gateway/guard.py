"""What stands between the gateway and what it stands on: a deadline for every call, and circuit breakers.

A circuit opens once a call got no answer, or waited long for a bad one, or several in a row were refused at once. Then
calls are refused without asking, but for one now and then that finds out whether the other side is back. Judged apart:
the registry's reads and its changes; of the runtime what it answers, starts and changes. Routes need none of them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from container_manager.errors import RuntimeUnavailable
from container_manager.runtime import Runtime
from container_manager.spec import Liveness, NodeSpec, NodeStatus
from kato_gateway.domain.errors import RegistryUnavailable
from kato_gateway.domain.sessions import NodeRecord, SessionRecord
from kato_gateway.registry.base import Change, GatewayRecord, Leftover, Registry, SessionQuery

T = TypeVar("T")
Seconds = Callable[[], float]

REGISTRY_MAX_S = 20.0  # longer than the registries' own limits, which tell what is the matter
SLOW_S = 1.0  # one failure that took as long is enough
QUICK_MAX = 3  # else so many in a row
PAUSE_MIN_S = 0.25
PAUSE_MAX_S = 4.0
_log = logging.getLogger(__name__)


class CircuitOpen(Exception):
    """The other side is not asked just now. Attributes: wait_s: until it will be."""

    def __init__(self, name: str, wait_s: float) -> None:
        super().__init__(f"{name}: no answer of late; it is asked again soon")
        self.wait_s = wait_s


class Trial:
    """One call that was let through. Attributes: told: whether its return shows that the other side is there."""

    told = True


class Circuit:
    """Whether calls of one kind are let through.

    Args:
        failure: what the other side's absence is told by, beside TimeoutError; any other error is an answer.
        clock_s: seconds that only go on.
        chance: uniform in [0, 1); spreads the tries of several gateways.
        heralds: what to ask again at once when this one closes: it is about the same other side.
    """

    def __init__(
        self,
        name: str,
        failure: type[Exception],
        *,
        clock_s: Seconds,
        chance: Callable[[], float] = random.random,
        heralds: Sequence[Circuit] = (),
    ) -> None:
        self.name = name
        self._failure = failure
        self._clock_s = clock_s
        self._chance = chance
        self._heralds = heralds
        self._quick = 0
        self._pauses = 0
        self._failed_s = clock_s()
        self._retry_s = 0.0
        self._trying = False

    @property
    def is_open(self) -> bool:
        """Whether calls are refused, but for those that find out."""
        return self._pauses > 0

    def check(self) -> None:
        """Refuse a call that finds nothing out. Raises: CircuitOpen."""
        now_s = self._clock_s()
        if self.is_open and (self._trying or now_s < self._retry_s):
            raise CircuitOpen(self.name, max(0.0, self._retry_s - now_s))

    @contextmanager
    def call(self) -> Iterator[Trial]:
        """Let one call through, and learn from how it ends. Raises: CircuitOpen in its place."""
        self.check()
        trial, began_s = Trial(), self._clock_s()
        tries = self._trying = self.is_open
        try:
            yield trial
        except (TimeoutError, self._failure) as error:
            self._failed(began_s, slow=isinstance(error, TimeoutError) or self._clock_s() - began_s >= SLOW_S)
            raise
        except Exception:
            self._answered()
            raise
        else:
            if trial.told:
                self._answered()
            elif tries:
                self._failed(began_s, slow=True)
        finally:
            if tries:
                self._trying = False

    def _answered(self) -> None:
        if self.is_open:
            _log.warning("circuit_closed", extra={"calls": self.name})
            for circuit in self._heralds:
                circuit._retry_s = self._clock_s()
        self._quick = self._pauses = 0

    def _failed(self, began_s: float, *, slow: bool) -> None:
        now_s = self._clock_s()
        if began_s < self._failed_s:
            return  # one of several that waited together
        self._failed_s = now_s
        self._quick += 1
        if not (slow or self.is_open or self._quick >= QUICK_MAX):
            return
        if not self.is_open:
            _log.warning("circuit_opened", extra={"calls": self.name})
        self._pauses += 1
        pause_s = min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** min(self._pauses - 1, 16))
        self._retry_s = now_s + pause_s * (0.5 + self._chance() / 2)


class GuardedRegistry:
    """The Registry protocol on another registry; see there for each method.

    Every call may raise RegistryUnavailable because there was no answer in time, or because nobody asks just now.
    """

    def __init__(self, registry: Registry, *, clock_s: Seconds, call_max_s: float = REGISTRY_MAX_S) -> None:
        self._registry = registry
        self._max_s = call_max_s
        self._changes = Circuit("registry changes", RegistryUnavailable, clock_s=clock_s)
        self._reads = Circuit("registry reads", RegistryUnavailable, clock_s=clock_s, heralds=[self._changes])
        self.open = registry.open
        self.close = registry.close

    async def apply(self, changes: Sequence[Change]) -> bool:
        """See Registry."""
        return await self._answer(self._changes, lambda: self._registry.apply(changes))

    async def settled(self, name: str, proposed: str) -> str:
        """See Registry."""
        return await self._answer(self._changes, lambda: self._registry.settled(name, proposed))

    async def session(self, session_id: str) -> SessionRecord | None:
        """See Registry."""
        return await self._read(lambda: self._registry.session(session_id))

    async def sessions(self, query: SessionQuery, *, limit: int, after: str = "") -> Sequence[SessionRecord]:
        """See Registry."""
        return await self._read(lambda: self._registry.sessions(query, limit=limit, after=after))

    async def count_sessions(self, query: SessionQuery) -> int:
        """See Registry."""
        return await self._read(lambda: self._registry.count_sessions(query))

    async def node(self, node_id: str) -> NodeRecord | None:
        """See Registry."""
        return await self._read(lambda: self._registry.node(node_id))

    async def node_of(self, processor_id: str) -> NodeRecord | None:
        """See Registry."""
        return await self._read(lambda: self._registry.node_of(processor_id))

    async def nodes(self) -> Sequence[NodeRecord]:
        """See Registry."""
        return await self._read(self._registry.nodes)

    async def count_nodes(self) -> int:
        """See Registry."""
        return await self._read(self._registry.count_nodes)

    async def owner(self, processor_id: str) -> str | None:
        """See Registry."""
        return await self._read(lambda: self._registry.owner(processor_id))

    async def purges(self) -> Sequence[str]:
        """See Registry."""
        return await self._read(self._registry.purges)

    async def gateways(self) -> Sequence[GatewayRecord]:
        """See Registry."""
        return await self._read(self._registry.gateways)

    async def leftovers(self, processor_id: str) -> Sequence[Leftover]:
        """See Registry."""
        return await self._read(lambda: self._registry.leftovers(processor_id))

    async def _read(self, ask: Callable[[], Coroutine[object, object, T]]) -> T:
        return await self._answer(self._reads, ask)

    async def _answer(self, circuit: Circuit, ask: Callable[[], Coroutine[object, object, T]]) -> T:
        try:
            async with _answer(circuit, self._max_s):
                return await ask()
        except CircuitOpen as refused:
            raise RegistryUnavailable(f"The {refused}.", retry_after_s=max(1.0, refused.wait_s)) from None
        except TimeoutError as error:
            message = f"The {circuit.name} were not answered within {self._max_s:g} s."
            raise RegistryUnavailable(message, retry_after_s=PAUSE_MAX_S) from error


class GuardedRuntime:
    """The Runtime protocol on another runtime; see there for each method.

    One node that does not end keeps nobody from the others; an engine that answers nothing is not asked to start or end
    any.

    Args:
        call_max_s: within which a call is answered, beside what it takes to start or end a node.
    """

    def __init__(self, runtime: Runtime, *, clock_s: Seconds, call_max_s: float) -> None:
        self._runtime = runtime
        self._max_s = call_max_s
        self._starting = Circuit("runtime's starts", RuntimeUnavailable, clock_s=clock_s)
        self._changing = Circuit("runtime's changes", RuntimeUnavailable, clock_s=clock_s)
        heralds = [self._starting, self._changing]
        self._asking = Circuit("runtime", RuntimeUnavailable, clock_s=clock_s, heralds=heralds)
        self.name = runtime.name
        self.capabilities = runtime.capabilities
        self.open = runtime.open
        self.close = runtime.close

    @property
    def engine(self) -> str:
        """See Runtime."""
        return self._runtime.engine

    async def start(self, spec: NodeSpec, *, timeout_s: float) -> NodeStatus:
        """See Runtime. While the engine does not answer what it is asked, nothing is started."""
        async with self._acting(self._starting, timeout_s + self._max_s):
            return await self._runtime.start(spec, timeout_s=timeout_s)

    async def status(self, node_id: str) -> NodeStatus:
        """See Runtime."""
        unknown = NodeStatus(node_id=node_id, liveness=Liveness.UNKNOWN)
        try:
            async with _answer(self._asking, self._max_s) as trial:
                status = await self._runtime.status(node_id)
                trial.told = status.liveness is not Liveness.UNKNOWN
                return status
        except (CircuitOpen, TimeoutError, RuntimeUnavailable):
            return unknown

    async def list(self) -> Sequence[NodeStatus]:
        """See Runtime."""
        with _unavailable():
            async with _answer(self._asking, self._max_s):
                return await self._runtime.list()

    async def stop(self, node_id: str, *, grace_s: float) -> None:
        """See Runtime."""
        async with self._acting(self._changing, grace_s + self._max_s):
            await self._runtime.stop(node_id, grace_s=grace_s)

    async def remove(self, node_id: str) -> None:
        """See Runtime."""
        async with self._acting(self._changing, self._max_s):
            await self._runtime.remove(node_id)

    async def rename(self, node_id: str, name: str) -> None:
        """See Runtime."""
        async with self._acting(self._changing, self._max_s):
            await self._runtime.rename(node_id, name)

    def exits(self) -> AsyncIterator[str]:
        """See Runtime."""
        return self._runtime.exits()

    @asynccontextmanager
    async def _acting(self, circuit: Circuit, within_s: float) -> AsyncIterator[None]:
        """Wait for what starts or ends a node. Raises: RuntimeUnavailable."""
        with _unavailable():
            self._asking.check()
            async with _answer(circuit, within_s):
                yield


@asynccontextmanager
async def _answer(circuit: Circuit, within_s: float) -> AsyncIterator[Trial]:
    """Wait for an answer in the block. Raises: CircuitOpen, TimeoutError."""
    with circuit.call() as trial:
        async with asyncio.timeout(within_s):
            yield trial


@contextmanager
def _unavailable() -> Iterator[None]:
    """Turn silence into RuntimeUnavailable."""
    try:
        yield
    except CircuitOpen as refused:
        raise RuntimeUnavailable(f"The {refused}.") from None
    except TimeoutError as error:
        raise RuntimeUnavailable("The engine did not answer in time.") from error

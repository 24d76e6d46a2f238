"""Booted unbound nodes, each claimed exactly once, and the starts that keep them coming.

Who finds no member ready waits for whichever comes first, one being started for the pool or one started for its sake;
what comes later is the pool's.

Gateways on one engine that start the same nodes have one pool: a member on record is anybody's, claimed by compare and
set, and each of them fills what all of them lack. Each takes the members of its own starts first, so that they seldom
reach for the same one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from container_manager import errors as container
from container_manager.spec import NodeSpec, new_node_id
from kato_gateway.domain.admission import FairQueue
from kato_gateway.domain.errors import (
    CapacityReached,
    GatewayError,
    GatewayStopping,
    NodeFailed,
    NodeTimeout,
    RuntimeOutOfReach,
)
from kato_gateway.domain.policy import PoolView, plan_refill
from kato_gateway.domain.sessions import NodeRecord, NodeState, claimed, pooled
from kato_gateway.events import Event
from kato_gateway.ground import Ground
from kato_gateway.nodes.admission import Admission
from kato_gateway.nodes.janitor import Janitor
from kato_gateway.nodes.peers import Peers
from kato_gateway.registry.base import NodeChange
from kato_gateway.tasks import Flights

PROBE_TIMEOUT_S = 1.0
RETRY_AFTER_S = 2.0
SHARED_PAUSE_S = 1.0
"""Until a pool that another gateway is filling is looked at again."""

_UNBOUND = frozenset({NodeState.CREATING, NodeState.POOL})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A node that is the processor's alone, recorded as binding, and how long it took in milliseconds.

    Attributes:
        start: "cold" if it had to be waited for.
    """

    node: NodeRecord
    start: Literal["warm", "cold"]
    spawn_ms: float
    probe_ms: float


class Pool:
    """The unbound nodes, as far as this gateway knows of them."""

    def __init__(self, ground: Ground, janitor: Janitor, admission: Admission, peers: Peers) -> None:
        self._ground = ground
        self._peers = peers
        self._admission = admission
        self._janitor = janitor
        self._idle: deque[NodeRecord] = deque()
        self._own: set[str] = set()
        self._claiming: set[str] = set()
        self._finding: Flights[None] = Flights(ground.tasks)
        self._held_until_s = 0.0
        self._waiting: FairQueue[asyncio.Future[NodeRecord]] = FairQueue()
        self._queued: dict[str, asyncio.Future[NodeRecord]] = {}
        self._starting = 0
        self._intended: set[str] = set()
        self._busy = 0
        self._busy_since_s: float | None = None
        self._failures = 0
        self._failed_at_s = 0.0
        self._filling = False
        self._look_again: asyncio.Task[None] | None = None
        self._admitting = asyncio.Lock()

    def fill(self) -> None:
        """Keep the pool full from now on."""
        self._filling = True
        self._refill()

    def is_abandoned(self, node: NodeRecord) -> bool:
        """Whether this gateway began to start the node in a former life, which ended before the start did."""
        ours = node.state is NodeState.CREATING and node.starter == self._peers.own_id
        return ours and node.node_id not in self._intended

    def stop_filling(self) -> None:
        """Start nothing more for the pool."""
        self._filling = False
        if self._look_again is not None:
            self._look_again.cancel()

    @property
    def view(self) -> PoolView:
        """The pool as it is."""
        return PoolView(
            idle=len(self._idle),
            starting=self._starting,
            waiting=len(self._waiting),
            busy_since_s=self._busy_since_s,
            failures=self._failures,
            failed_at_s=self._failed_at_s,
            held_until_s=self._held_until_s,
        )

    def has(self, node_id: str) -> bool:
        """Whether the node is a member that can be claimed."""
        return any(member.node_id == node_id for member in self._idle)

    def adopt(self, node: NodeRecord) -> None:
        """Take a booted, unbound, recorded node into the pool."""
        if node.node_id not in self._claiming:
            self._offer(node)

    def nodes(self) -> frozenset[str]:
        """Return the ids of the members that can be claimed."""
        return frozenset(member.node_id for member in self._idle)

    def forget(self, node_id: str) -> None:
        """Let go of a member that is not to be claimed any more."""
        if self._drop(node_id):
            self._refill()

    def _drop(self, node_id: str) -> bool:
        self._own.discard(node_id)
        if not self.has(node_id):
            return False
        self._idle = deque(member for member in self._idle if member.node_id != node_id)
        return True

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Count a user's claim and bind, to which refilling yields."""
        self._busy += 1
        if self._busy_since_s is None:
            self._busy_since_s = self._ground.clock.monotonic_s()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._busy_since_s = None
                self._refill()

    def is_queued(self, processor_id: str) -> bool:
        """Whether a claim for the processor waits, and no start would have been in vain if it no longer did."""
        future = self._queued.get(processor_id)
        return future is not None and not future.done() and len(self._waiting) > self._starting

    async def claim(self, processor_id: str, *, user: str | None = None) -> Claim | None:
        """Claim a member for the processor: probed, then recorded as binding. None: another node holds the processor.

        Args:
            user: for whom; where there is no member, users take turns.

        Raises: CapacityReached, NodeFailed, NodeTimeout, RuntimeOutOfReach, RegistryUnavailable.
        """
        clock = self._ground.clock
        spawn_ms = probe_ms = 0.0
        start: Literal["warm", "cold"] = "warm"
        while True:
            began_s = clock.monotonic_s()
            member = await self._taken()
            if member is None:
                start = "cold"
                member = await self._next(processor_id, user)
                spawn_ms += 1000 * (clock.monotonic_s() - began_s)
                began_s = clock.monotonic_s()
            self._claiming.add(member.node_id)
            try:
                node = await self._claimed(member, processor_id)
            finally:
                self._claiming.discard(member.node_id)
            probe_ms += 1000 * (clock.monotonic_s() - began_s)
            if node is not None:
                return Claim(node=node, start=start, spawn_ms=spawn_ms, probe_ms=probe_ms)
            if await self._ground.registry.node_of(processor_id) is not None:
                return None

    async def _taken(self) -> NodeRecord | None:
        """Take a member out, one of this gateway's own starts if there is one; None if there is none at all."""
        if not self._idle and self._peers.share_nodes:
            await self._finding.join("members", self._find)
        if not self._idle:
            return None
        member = next((member for member in self._idle if member.node_id in self._own), self._idle[-1])
        self._idle.remove(member)
        self._own.discard(member.node_id)
        return member

    async def _find(self) -> None:
        """Take in the members that other gateways have started, and let go of those that they have taken."""
        await self._found()

    async def _found(self) -> Sequence[NodeRecord]:
        """Look at what is recorded; return every gateway's members, and those being started."""
        ground = self._ground
        unbound: list[NodeRecord] = []
        for node in await ground.registry.nodes():
            if node.state not in _UNBOUND:
                self._drop(node.node_id)
            elif node.is_on(ground.engine) and node.spec_hash == ground.spec_hash:
                unbound.append(node)
                if node.state is NodeState.POOL:
                    self.adopt(node)
        return unbound

    async def _is_one_too_many(self, intent: NodeRecord | None) -> bool:
        """Whether the shared pool is full without one more start: this one, once its intent is recorded."""
        if not self._peers.share_nodes:
            return False
        others = [node for node in await self._found() if intent is None or node.node_id != intent.node_id]
        if len(others) < self._ground.policy.warm_pool_size:
            return False
        pause_s = SHARED_PAUSE_S * random.uniform(1.0, 2.0)  # noqa: S311 - two that withdrew from each other part
        self._held_until_s = self._ground.clock.monotonic_s() + pause_s
        return True

    async def _claimed(self, member: NodeRecord, processor_id: str) -> NodeRecord | None:
        """Record the member as binding; None if it is dead, somebody else's, or not needed: then it is let go of."""
        registry, clock = self._ground.registry, self._ground.clock
        try:
            answers = await self._answers(member)
        except asyncio.CancelledError:
            self._offer(member)
            raise
        if not answers:
            self._janitor.end_later(member)
            return None
        node = claimed(member, processor_id=processor_id, at_s=clock.now_s())
        if await registry.apply([NodeChange(before=member, after=node)]):  # in doubt, a sweep finds out what it is
            return node
        if await registry.node(member.node_id) == member:
            self._offer(member)
        return None

    async def _answers(self, member: NodeRecord) -> bool:
        try:
            identity = await self._ground.client.identity(member, timeout_s=PROBE_TIMEOUT_S)
        except GatewayError as error:
            _log.info("pool_member_lost", extra={"node_id": member.node_id, "reason": error.message})
            return False
        return (identity.node_id, identity.state) == (member.node_id, "unbound")

    async def _next(self, processor_id: str, user: str | None) -> NodeRecord:
        """Wait for the next member; a start is under way for everybody who waits. Raises: CapacityReached."""
        await self._admission.admit_waiting(len(self._waiting))
        future: asyncio.Future[NodeRecord] = asyncio.get_running_loop().create_future()
        self._waiting.put(user, future)
        self._queued[processor_id] = future
        self._refill()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._offer(future.result())
            raise
        finally:
            self._waiting.leave(user, future)
            del self._queued[processor_id]

    def _offer(self, member: NodeRecord) -> None:
        if self.has(member.node_id):
            return
        while self._waiting:
            future = self._waiting.pop()
            if not future.done():
                future.set_result(member)
                return
        self._idle.append(member)

    def _refill(self) -> None:
        policy = self._ground.policy
        size = policy.warm_pool_size if self._filling else 0
        plan = plan_refill(self.view, now_s=self._ground.clock.monotonic_s(), size=size, starts_max=policy.starts_max)
        for _ in range(plan.start):
            self._starting += 1
            self._ground.tasks.spawn("start a node", self._start(for_pool=not self._waiting))
        if plan.again_in_s is not None and (self._look_again is None or self._look_again.done()):
            self._look_again = self._ground.tasks.spawn("refill", self._refill_in(plan.again_in_s))

    async def _refill_in(self, delay_s: float) -> None:
        await self._ground.clock.sleep(delay_s)
        self._look_again = None
        self._refill()

    async def _start(self, *, for_pool: bool) -> None:
        try:
            member = await self._started(for_pool=for_pool)
        except GatewayError as error:
            self._starting -= 1
            self._failed(error)
        except BaseException:
            self._starting -= 1
            self._failed(GatewayStopping())
            raise
        else:
            self._starting -= 1
            if member is not None:
                self._failures = 0
                self._own.add(member.node_id)
                self._offer(member)
        self._refill()

    def _failed(self, error: GatewayError) -> None:
        clock = self._ground.clock
        self._failures += 1
        self._failed_at_s = clock.monotonic_s()
        self._ground.events.publish(
            Event(kind="node_start_failed", at_s=clock.now_s(), reason=f"{error.code}: {error.message}")
        )
        while len(self._waiting) > self._starting:
            future = self._waiting.pop()
            if not future.done():
                future.set_exception(error)
                return

    async def _started(self, *, for_pool: bool) -> NodeRecord | None:
        """Record the intent, start the node, record it as a member; None: for a pool that is full without it.

        Raises: GatewayError; then it ends by itself.
        """
        ground = self._ground
        now_s = ground.clock.now_s()
        spec = ground.new_spec(new_node_id(), now_s)
        intent = NodeRecord(
            node_id=spec.node_id,
            spec_hash=ground.spec_hash,
            engine=ground.engine,
            starter=self._peers.own_id,
            created_at_s=now_s,
            changed_at_s=now_s,
        )
        self._intended.add(intent.node_id)
        kept = False
        try:
            async with self._admitting:
                if for_pool and await self._is_one_too_many(None):
                    return None
                await self._admission.admit_node()
                recorded = await ground.registry.apply([NodeChange(before=None, after=intent)])
                if for_pool and await self._is_one_too_many(intent):
                    return None
            if recorded:
                member = await self._booted(spec, intent)
                kept = await ground.registry.apply([NodeChange(before=intent, after=member)])
        finally:
            self._intended.discard(intent.node_id)
            if not kept:
                self._janitor.end_later(intent)
        if not kept:
            raise NodeFailed(f"Node {spec.node_id} was given up while it started; try again.")
        ground.events.publish(Event(kind="node_started", at_s=ground.clock.now_s(), node_id=member.node_id))
        return member

    async def _booted(self, spec: NodeSpec, intent: NodeRecord) -> NodeRecord:
        ground = self._ground
        timeout_s = ground.policy.start_timeout_s
        try:
            status = await ground.runtime.start(spec, timeout_s=timeout_s)
        except container.ContainerError as error:
            raise _translated(error) from error
        if status.internal is None:
            raise NodeFailed(f"Node {spec.node_id} was started and has no address.")
        return pooled(intent, internal=status.internal, external=status.external, at_s=ground.clock.now_s())


def _translated(error: container.ContainerError) -> GatewayError:
    """Return what a client is told of a start that failed."""
    details = {"reason": error.code}
    if isinstance(error, container.StartTimeout):
        return NodeTimeout("The node did not answer in time after its start; try again.", details=details)
    if isinstance(error, container.ResourcesExhausted):
        return CapacityReached(
            "The host has no room for another node; end a session, or try again later.",
            details=details,
            retry_after_s=RETRY_AFTER_S,
        )
    if isinstance(error, container.RuntimeUnavailable | container.ImageMissing):
        return RuntimeOutOfReach(f"No node can be started now: {error}", details=details, retry_after_s=RETRY_AFTER_S)
    return NodeFailed("The node ended while it started; try again.", details=details)

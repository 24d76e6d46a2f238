"""The life of sessions: created, found a node, hibernated with it, woken, ended.

The one place that changes sessions and routes. The data plane calls `resolve` for each call's route, and `lost` on one
that failed it; the API calls the rest. What a call begins goes on when its caller leaves, unless it still waits for the
start of a node to begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping

from container_manager.runtime import Runtime
from kato_gateway.clock import Clock, SystemClock
from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.errors import Conflict, GatewayError, GatewayStopping, SessionNotFound
from kato_gateway.domain.owners import meant, permits
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.domain.sessions import (
    EndReason,
    Json,
    NodeRecord,
    NodeState,
    SessionRecord,
    ended,
    extended,
)
from kato_gateway.events import Event
from kato_gateway.ground import Ground, NewSpec
from kato_gateway.guard import GuardedRegistry, GuardedRuntime
from kato_gateway.nodes.admission import Admission, Memory
from kato_gateway.nodes.fleet import POLL_S, Fleet
from kato_gateway.nodes.janitor import Janitor
from kato_gateway.nodes.lookout import Lookout
from kato_gateway.nodes.peers import Peers
from kato_gateway.nodes.pool import Pool
from kato_gateway.nodes.protocol import NodeClient
from kato_gateway.nodes.recovery import Recovery
from kato_gateway.nodes.survey import Survey
from kato_gateway.registry.base import Change, Leftover, LeftoverChange, PurgeChange, Registry, SessionChange
from kato_gateway.sessions.activity import Activity
from kato_gateway.sessions.configs import Configs
from kato_gateway.sessions.creating import TTL_S_MAX, Created, CreateSession, check_ttl
from kato_gateway.sessions.creator import Creator
from kato_gateway.sessions.directory import Directory
from kato_gateway.sessions.opener import Opener
from kato_gateway.sessions.opening import access_token
from kato_gateway.sessions.upkeep import Upkeep
from kato_gateway.shutdown import end_everything
from kato_gateway.tasks import Tasks

__all__ = ["TTL_S_MAX", "CreateSession", "Created", "Lifecycle"]

FIRST_SWEEP_S = 2.0
WATCH_PAUSE_S = 1.0
_ROUNDS = 10
_log = logging.getLogger(__name__)


class Lifecycle:
    """Creates, finds, wakes and ends sessions.

    Args:
        registry, runtime, client: open; whoever opened them closes them after `stop`.
        new_spec: makes the specification of each node; see ground.NewSpec.
        secret: the deployment's, under which the sessions' tokens are issued.
        memory: what the host could still give to nodes.
        gateway_id: this gateway's own among those that share the registry, the same after a restart; made up if "".

    Whoever calls on a session says as `owner` whose call it is: to another's caller the session does not exist. None is
    whoever may call on them all: the gateway itself, or everybody where there are no keys.

    Attributes:
        routes: where each session's calls go.
        activity: who is being called; the data plane keeps it.
        directory: sessions and nodes to read.
        events: what happens, to listen to.
        configs: the sessions' configurations.
        survey: the nodes as they are, and what the gateway stands on.
        peers: which other gateways there are; while one shares this one's nodes, they are not to be killed.
        pool: its `view` is for the gateway's status.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        runtime: Runtime,
        client: NodeClient,
        new_spec: NewSpec,
        policy: LifecyclePolicy,
        clock: Clock | None = None,
        secret: str = "",
        memory: Memory = lambda: None,
        gateway_id: str = "",
    ) -> None:
        clock = clock or SystemClock()
        self._ground = ground = Ground(
            registry=GuardedRegistry(registry, clock_s=clock.monotonic_s),
            runtime=GuardedRuntime(runtime, clock_s=clock.monotonic_s, call_max_s=policy.call_timeout_s),
            client=client,
            new_spec=new_spec,
            policy=policy,
            clock=clock,
            secret=secret,
        )
        self._loops = Tasks()
        self.events, self.routes = ground.events, ground.routes
        self.activity = Activity(clock.now_s)
        self.peers = peers = Peers(ground, gateway_id or secrets.token_hex(8))
        self.directory = Directory(ground, self.activity, peers)
        self._janitor = janitor = Janitor(ground, self._forget)
        self.pool = pool = Pool(ground, janitor, Admission(ground, self.activity, memory), peers)
        self._lookout = lookout = Lookout(ground)
        self._fleet = fleet = Fleet(ground, peers=peers, pool=pool, janitor=janitor, lookout=lookout)
        self._opener = Opener(ground, fleet=fleet, directory=self.directory, waits=pool.is_queued)
        self._creator = Creator(ground, opener=self._opener, directory=self.directory, end=self._end)
        self._recovery = Recovery(ground, peers=peers, fleet=fleet, pool=pool, janitor=janitor, lookout=lookout)
        self.configs = Configs(
            ground, directory=self.directory, activity=self.activity, resolve=self.resolve, lost=self.lost
        )
        self.survey = Survey(ground, self.directory)
        self._upkeep = Upkeep(ground, self.activity, self.directory, end=self._end, is_opening=self._opener.is_opening)
        self._serving = False
        self._swept = asyncio.Event()

    async def start(self) -> None:
        """Match what runs with what is recorded, then serve; the pool fills in the background.

        Raises: RegistryUnavailable. A runtime out of reach does not fail the start: it is looked at again.
        """
        ground, policy = self._ground, self._ground.policy
        await ground.registry.count_nodes()
        self._serving = True
        self._loops.supervise("watch", self._recovery.watch, ground.clock, WATCH_PAUSE_S)
        self._loops.supervise("sweep", self._sweep, ground.clock, policy.sweep_interval_s)
        self._loops.supervise("upkeep", self._upkeep.round, ground.clock, policy.upkeep_interval_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SWEEP_S):
                await self._swept.wait()

    async def stop(self) -> None:
        """Take no more calls, end every node gently, leave each session hibernated. Idempotent, bounded in time.

        While another gateway serves by the same nodes, they and their sessions are left to that. Cancelled, it undoes
        the starts under way, and leaves the nodes that run.
        """
        if not self._serving:
            return
        self._serving = False
        self.pool.stop_filling()
        try:
            await self._loops.cancel()
            await end_everything(
                self._ground, peers=self.peers, janitor=self._janitor, recovery=self._recovery, upkeep=self._upkeep
            )
        finally:
            for tasks in (self._loops, self._ground.tasks):
                await tasks.cancel()

    async def create(self, wanted: CreateSession) -> Created:
        """Create the session and have a node open it; or find the caller's live session of this id.

        Raises: InvalidSession, Conflict, Forbidden, NodeRefused, CapacityReached, NodeFailed, NodeTimeout,
            RuntimeOutOfReach, RegistryUnavailable. After any of them no session is left behind.
        """
        self._check_serving()
        return await self._creator.create(wanted)

    async def resolve(self, session_id: str, *, owner: str | None = None) -> Route:
        """Return the session's route; on a miss find its processor's node, or wake one. `default` is made on demand.

        Raises: SessionNotFound, SessionExpired, NodeRefused, CapacityReached, NodeFailed, NodeTimeout,
            RuntimeOutOfReach, RegistryUnavailable.
        """
        session_id = meant(session_id, caller=owner)
        route = self.routes.get(session_id)
        if route is not None:
            if not permits(route.owner, caller=owner):
                raise SessionNotFound(session_id)
            return route
        self._check_serving()
        return (await self._opener.open(session_id, owner=owner)).route

    async def lost(self, route: Route) -> None:
        """Take a report that the route failed: connection refused or broken, time-out, 421, or a draining node's 503.

        Drops the node's routes and finds out. Afterwards `resolve` gives a route that is good as far as can be told.
        Raises: RuntimeOutOfReach, NodeTimeout if it cannot be told now; nothing was stopped. RegistryUnavailable.
        """
        self._check_serving()
        known = self.routes.get(route.session_id)
        if known is None or known == route:
            await self._fleet.doubt(route.node_id)

    async def is_lost(self, route: Route) -> bool:
        """Ask after the node of a call that has waited long: True once it is known to serve nobody.

        Raises: RuntimeOutOfReach, NodeTimeout, RegistryUnavailable if that cannot be told now.
        """
        return await self._fleet.is_lost(route.node_id)

    def access_token(self, record: SessionRecord) -> str:
        """Return what lets its holder call on the session at its node, without the gateway."""
        return access_token(record, secret=self._ground.secret)

    async def get(self, session_id: str, *, owner: str | None = None) -> SessionRecord:
        """Return the live session, its times as of now; slides nothing.

        Raises: SessionNotFound, SessionExpired, RegistryUnavailable.
        """
        return self.directory.current(await self.directory.session(session_id, owner=owner))

    async def extend(self, session_id: str, *, ttl_s: float | None, owner: str | None = None) -> SessionRecord:
        """Give the session a new expiry, `ttl_s` seconds from now; None: its time to live again.

        Raises: InvalidSession, SessionNotFound, SessionExpired, Conflict, RegistryUnavailable.
        """
        self._check_serving()
        check_ttl(ttl_s)
        for _ in range(_ROUNDS):
            record = await self.directory.session(session_id, owner=owner)
            after = extended(record, at_s=self._ground.clock.now_s(), ttl_s=ttl_s)
            if await self._ground.registry.apply([SessionChange(before=record, after=after)]):
                return after
        raise _changing(session_id)

    async def effective_config(self, session_id: str, *, owner: str | None = None) -> Mapping[str, Json]:
        """Return the session's whole configuration: its node's answer, or the last one if no node has it open.

        Raises: SessionNotFound, SessionExpired, RegistryUnavailable.
        """
        return await self.configs.effective(session_id, owner=owner)

    async def end(
        self, session_id: str, reason: EndReason = EndReason.DELETED, *, owner: str | None = None, purge: bool = False
    ) -> SessionRecord:
        """End the session in whatever state it is, and its node if that serves nobody else; patterns stay.

        Args:
            purge: delete everything that its processor has, too. What cannot be done now is done before anybody uses
                the processor again, and in any case soon.

        Raises: SessionNotFound, SessionExpired if it has ended already; Conflict, RegistryUnavailable. Conflict also if
            another session uses the processor that is to be purged.
        """
        self._check_serving()
        for _ in range(_ROUNDS):
            record = await self.directory.session(session_id, owner=owner)
            if purge:
                await self.directory.check_alone(record)
            if await self._ground.tasks.outlive("end", self._end(record, reason, purge=purge)):
                return ended(record, reason=reason, at_s=self._ground.clock.now_s())
        raise _changing(session_id)

    async def end_node(self, name: str) -> NodeRecord:
        """Drain and stop one node, named by its own id or its processor's; its sessions are hibernated.

        Raises: NodeNotFound, RegistryUnavailable.
        """
        self._check_serving()
        node = await self.directory.node(name)
        await self._ground.tasks.outlive("end node", self._end_node(node))
        return node

    async def _sweep(self) -> None:
        try:
            await self._recovery.sweep()
            for processor_id in await self._ground.registry.purges():
                self._ground.tasks.spawn("purge", self._fleet.purge(processor_id))
        finally:
            if self._serving:
                self.pool.fill()
            self._swept.set()

    async def _end(self, record: SessionRecord, reason: EndReason, *, purge: bool = False) -> bool:
        """End the session as it stands in this record; False if the record has moved on."""
        after = ended(record, reason=reason, at_s=self._ground.clock.now_s())
        leftover = Leftover(
            processor_id=record.processor_id, session_id=record.session_id, incarnation=record.incarnation
        )
        changes: list[Change] = [
            SessionChange(before=record, after=after),
            LeftoverChange(leftover=leftover, remember=True),
        ]
        if purge:
            changes.append(PurgeChange(processor_id=record.processor_id, owed=True))
        try:
            if not await self._ground.registry.apply(changes):
                return False
        finally:
            self.routes.drop_session(record.session_id)  # whatever came of it, the next call finds out
        self._opener.close(record)
        self._tell_ended(after)
        policy, work = self._ground.policy, self._fleet.purge if purge else self._fleet.tidy
        tidying = self._ground.tasks.spawn("tidy", work(record.processor_id))
        if not self._opener.is_opening(record):  # else whoever finds it a node is told, and tidies
            timeout_s = policy.start_timeout_s + policy.bind_timeout_s if purge else policy.call_timeout_s
            await asyncio.wait({tidying}, timeout=timeout_s)
        return True

    async def _end_node(self, node: NodeRecord) -> None:
        ground = self._ground
        self._fleet.forget(node.node_id)
        if node.state is NodeState.BOUND:  # drained by itself, wherever it runs
            try:
                await ground.client.drain(node, timeout_s=ground.policy.call_timeout_s)
            except GatewayError as error:
                _log.info("node_not_drained", extra={"node_id": node.node_id, "reason": error.message})
            else:
                if not node.is_on(ground.engine):
                    return  # it leaves, and its own gateway sees it gone
                await self._lookout.gone(node.node_id, within_s=ground.policy.drain_grace_s, poll_s=POLL_S)
        await self._janitor.end(node)

    def _forget(self, node_id: str) -> None:
        self._fleet.forget(node_id)
        self.pool.forget(node_id)
        self._lookout.forget(node_id)

    def _check_serving(self) -> None:
        if not self._serving:
            raise GatewayStopping

    def _tell_ended(self, record: SessionRecord) -> None:
        self.events.publish(
            Event(
                kind="session_ended",
                at_s=self._ground.clock.now_s(),
                session_id=record.session_id,
                processor_id=record.processor_id,
                reason=record.reason.value if record.reason else None,
                owner=record.owner,
            )
        )


def _changing(session_id: str) -> Conflict:
    return Conflict(f"Session {session_id!r} was changed by others at the same time; try again.")

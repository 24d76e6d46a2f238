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
from typing import Literal

from container_manager.runtime import Runtime
from kato_gateway.clock import Clock, SystemClock
from kato_gateway.dataplane.routes import Route, RouteTable
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
    new_session,
)
from kato_gateway.events import Event, Events
from kato_gateway.ground import Ground, NewSpec
from kato_gateway.nodes.admission import Admission, Memory
from kato_gateway.nodes.fleet import POLL_S, Fleet
from kato_gateway.nodes.janitor import Janitor
from kato_gateway.nodes.lookout import Lookout
from kato_gateway.nodes.pool import Pool
from kato_gateway.nodes.protocol import NodeClient
from kato_gateway.nodes.recovery import Recovery
from kato_gateway.nodes.survey import Survey
from kato_gateway.registry.base import Change, Leftover, LeftoverChange, PurgeChange, Registry, SessionChange
from kato_gateway.sessions.activity import Activity
from kato_gateway.sessions.configs import Configs
from kato_gateway.sessions.creating import TTL_S_MAX, Created, CreateSession, Start, check, check_ttl
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

    Whoever calls on a session says as `owner` whose call it is: to another's caller the session does not exist. None is
    whoever may call on them all: the gateway itself, or everybody where there are no keys.

    Attributes:
        routes: where each session's calls go.
        activity: who is being called; the data plane keeps it.
        directory: sessions and nodes to read.
        events: what happens, to listen to.
        configs: the sessions' configurations.
        survey: the nodes as they are, and what the gateway stands on.
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
    ) -> None:
        clock = clock or SystemClock()
        self.events = Events()
        self.routes = RouteTable()
        self.activity = Activity(clock.now_s)
        self._loops = Tasks()
        self._ground = ground = Ground(
            registry=registry,
            runtime=runtime,
            client=client,
            new_spec=new_spec,
            policy=policy,
            clock=clock,
            events=self.events,
            tasks=Tasks(),
            secret=secret,
        )
        self.directory = Directory(ground, self.activity)
        self._janitor = Janitor(ground, self._forget)
        self.pool = Pool(ground, self._janitor, Admission(ground, self.activity, memory))
        lookout = self._lookout = Lookout(ground)
        self._fleet = Fleet(ground, pool=self.pool, janitor=self._janitor, lookout=lookout, routes=self.routes)
        self._opener = Opener(ground, fleet=self._fleet, directory=self.directory, routes=self.routes)
        self._recovery = Recovery(
            ground, fleet=self._fleet, pool=self.pool, janitor=self._janitor, lookout=lookout, routes=self.routes
        )
        self.configs = Configs(
            ground,
            directory=self.directory,
            activity=self.activity,
            routes=self.routes,
            resolve=self.resolve,
            lost=self.lost,
        )
        self.survey = Survey(ground, self.directory)
        self._upkeep = Upkeep(ground, self.activity, end=self._end, is_opening=self._opener.is_opening)
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

        Cancelled, it undoes the starts under way, and leaves the nodes that run.
        """
        if not self._serving:
            return
        self._serving = False
        self.pool.stop_filling()
        try:
            await self._loops.cancel()
            await end_everything(self._ground, self._janitor, self._recovery, self._upkeep)
        finally:
            for tasks in (self._loops, self._ground.tasks):
                await tasks.cancel()

    async def create(self, wanted: CreateSession) -> Created:
        """Create the session and have a node open it; or find the caller's live session of this id.

        Raises: InvalidSession, Conflict, Forbidden, NodeRefused, CapacityReached, NodeFailed, NodeTimeout,
            RuntimeOutOfReach, RegistryUnavailable. After any of them no session is left behind.
        """
        self._check_serving()
        check(wanted)
        session_id = meant(wanted.session_id or secrets.token_hex(16), caller=wanted.owner)
        return await self._ground.tasks.outlive(
            "create", self._create(wanted, session_id), may_end=lambda: self._opener.is_queued(session_id)
        )

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

    def touch(self, session_id: str) -> None:
        """Note a call on the session, which slides its expiry; in memory, written now and then."""
        self.activity.touch(session_id)

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

    async def _create(self, wanted: CreateSession, session_id: str) -> Created:
        clock = self._ground.clock
        began_s = clock.now_s()
        _, created = await self._recorded(wanted, session_id)
        try:
            opened = await self._opener.open(session_id, owner=wanted.owner)
        except SessionNotFound:
            if created:
                raise
            return await self._create(wanted, session_id)  # the one that was found has gone meanwhile
        start: Start = opened.start
        if not created and start != "shared":
            start = "restored"
        total_ms = 1000 * (clock.now_s() - began_s)
        return Created(
            record=opened.record,
            route=opened.route,
            node=opened.node,
            created=created,
            start=start,
            timings_ms={"claim": 0.0, "spawn": 0.0, "ready": 0.0, "bind": 0.0, **opened.timings_ms, "total": total_ms},
        )

    async def _recorded(self, wanted: CreateSession, session_id: str) -> tuple[SessionRecord, bool]:
        """Return the new session's record, or the caller's live one of this id and False.

        Raises: Conflict, Forbidden.
        """
        user_id = wanted.owner if wanted.user_id is None else wanted.user_id
        policy = self._ground.policy
        for _ in range(_ROUNDS):
            found = await self._ground.registry.session(session_id) if wanted.session_id else None
            if found is not None and found.live:
                if self.directory.is_due(found):
                    await self._end(found, EndReason.EXPIRED)
                    continue
                theirs = not permits(found.owner, caller=wanted.owner) or found.user_id != user_id
                if theirs or wanted.node_id not in {None, found.processor_id}:
                    raise Conflict(f"Session {session_id!r} is somebody else's, or another node_id's; take another id.")
                return found, False
            record = new_session(
                session_id,
                incarnation=secrets.token_hex(8),
                at_s=self._ground.clock.now_s(),
                ttl_s=policy.session_ttl_s if wanted.ttl_seconds is None else wanted.ttl_seconds,
                processor_id=wanted.node_id,
                owner=wanted.owner,
                user_id=user_id,
                sliding=wanted.sliding,
                config=wanted.config,
                metadata=wanted.metadata,
            )
            changes = [SessionChange(before=found, after=record), *await self.directory.owning(record)]
            if await self._ground.registry.apply(changes):
                self._tell_session("session_created", record)
                return record, True
        raise _changing(session_id)

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
        self._opener.close(record.session_id)
        self._tell_session("session_ended", after)
        policy, work = self._ground.policy, self._fleet.purge if purge else self._fleet.tidy
        tidying = self._ground.tasks.spawn("tidy", work(record.processor_id))
        if not self._opener.is_opening(record.session_id):  # else whoever finds it a node is told, and tidies
            timeout_s = policy.start_timeout_s + policy.bind_timeout_s if purge else policy.call_timeout_s
            await asyncio.wait({tidying}, timeout=timeout_s)
        return True

    async def _end_node(self, node: NodeRecord) -> None:
        ground = self._ground
        self._fleet.forget(node.node_id)
        if node.state is NodeState.BOUND:
            try:
                await ground.client.drain(node, timeout_s=ground.policy.call_timeout_s)
            except GatewayError as error:
                _log.info("node_not_drained", extra={"node_id": node.node_id, "reason": error.message})
            else:
                await self._lookout.gone(node.node_id, within_s=ground.policy.drain_grace_s, poll_s=POLL_S)
        await self._janitor.end(node)

    def _forget(self, node_id: str) -> None:
        self._fleet.forget(node_id)
        self.pool.forget(node_id)
        self._lookout.forget(node_id)

    def _check_serving(self) -> None:
        if not self._serving:
            raise GatewayStopping

    def _tell_session(self, kind: Literal["session_created", "session_ended"], record: SessionRecord) -> None:
        self.events.publish(
            Event(
                kind=kind,
                at_s=self._ground.clock.now_s(),
                session_id=record.session_id,
                processor_id=record.processor_id,
                reason=record.reason.value if record.reason else None,
                owner=record.owner,
            )
        )


def _changing(session_id: str) -> Conflict:
    return Conflict(f"Session {session_id!r} was changed by others at the same time; try again.")

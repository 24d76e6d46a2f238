"""A whole gateway core in memory: a clock that is turned by hand, a runtime and nodes that fail on request.

The world outlives its gateways: what runs, what is registered and what the nodes have stored stays when one is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from container_manager.runtime import Runtime
from container_manager.runtimes.memory import MemoryEngine, MemoryRuntime
from container_manager.spec import Address, NodeSpec, NodeStatus
from kato_gateway.domain.errors import NodeFailed, NodeRefused
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.domain.sessions import NodeRecord, NodeState, SessionStatus
from kato_gateway.guard import PAUSE_MAX_S
from kato_gateway.lifecycle import Created, CreateSession, Lifecycle
from kato_gateway.registry.base import SessionQuery
from kato_gateway.registry.memory import MemoryRegistry, MemoryTables
from kato_node.wire.control import BindReply, BindRequest, Identity, OpenSession, SessionInfo, Vitals

T = TypeVar("T")
Phase: TypeAlias = Literal["before", "after"]
Knob: TypeAlias = Callable[[str, Phase], Awaitable[None]]
NodeAnswerState: TypeAlias = Literal["unbound", "binding", "bound", "draining"]

DEPLOYMENT = "here"
POLICY = LifecyclePolicy(warm_pool_size=0)


class HandClock:
    """Time that passes only when it is turned. Attributes: ahead_s: of the time that passed, the date."""

    def __init__(self) -> None:
        self.time_s = 1_000_000.0
        self.ahead_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_s(self) -> float:
        """See Clock."""
        return self.time_s + self.ahead_s

    def monotonic_s(self) -> float:
        """See Clock."""
        return self.time_s

    async def sleep(self, delay_s: float) -> None:
        """See Clock."""
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.time_s + delay_s, future))
        await future

    async def turn(self, by_s: float) -> None:
        """Let time pass, and everything happen that was due in it."""
        until_s = self.time_s + by_s
        await settle()
        while due := [at_s for at_s, future in self._sleepers if at_s <= until_s and not future.done()]:
            self._wake(min(due))
            await settle()
        self._wake(until_s)
        await settle()

    def _wake(self, at_s: float) -> None:
        self.time_s = max(self.time_s, at_s)
        for due_s, future in self._sleepers:
            if due_s <= self.time_s and not future.done():
                future.set_result(None)
        self._sleepers = [(due_s, future) for due_s, future in self._sleepers if not future.done()]


async def settle() -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(200):
        await asyncio.sleep(0)


@dataclass(slots=True)
class StoredSession:
    """A session in a processor's store."""

    incarnation: str
    config: Mapping[str, Any]


@dataclass(slots=True)
class Store:
    """What one processor's nodes have stored: the newest epoch, how many patterns, and the sessions."""

    epoch: int = 0
    patterns: int = 0
    sessions: dict[str, StoredSession] = field(default_factory=dict)


@dataclass(slots=True)
class FakeNode:
    """A node's own idea of itself.

    Attributes:
        answers_as: another id that it answers with.
        is_deaf: it takes no call, and lives.
    """

    node_id: str
    state: NodeAnswerState = "unbound"
    processor_id: str | None = None
    epoch: int | None = None
    own_session: bool = False
    answers_as: str | None = None
    is_deaf: bool = False

    @property
    def identity(self) -> Identity:
        """What it answers for."""
        return Identity(
            node_id=self.answers_as or self.node_id, state=self.state, processor_id=self.processor_id, epoch=self.epoch
        )


class World:
    """What outlives a gateway."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.engine = MemoryEngine()
        self.elsewhere = MemoryEngine(ports=self.engine.ports)
        self.tables = MemoryTables()
        self.nodes: dict[str, FakeNode] = {}
        self.stores: dict[str, Store] = {}
        self.drains_end = True

    def gateway(
        self,
        *,
        policy: LifecyclePolicy = POLICY,
        knob: Knob | None = None,
        env: str = "1",
        name: str = "first",
        engine: MemoryEngine | None = None,
    ) -> Lifecycle:
        """Return a gateway that is not started; the knob is awaited around each of its calls to the outside."""
        runtime: Runtime = MemoryRuntime(engine or self.engine, DEPLOYMENT)
        return Lifecycle(
            registry=MemoryRegistry(self.tables, knob and _named("registry", knob)),
            runtime=KnobRuntime(runtime, knob) if knob else runtime,
            client=FakeClient(self, knob),
            new_spec=lambda node_id, at_s: NodeSpec(
                node_id=node_id, deployment=DEPLOYMENT, env={"NODE_ID": node_id, "X": env}, created_at_s=at_s
            ),
            policy=policy,
            clock=self.clock,
            gateway_id=name,
        )

    def alive(self) -> list[str]:
        """Return the ids of the nodes that run."""
        return sorted(node_id for node_id, node in self.engine.nodes.items() if node.is_alive)

    def node(self, node_id: str) -> FakeNode:
        """Return a running node's idea of itself."""
        return self.nodes.setdefault(node_id, FakeNode(node_id))

    def at(self, address: Address | None) -> FakeNode:
        """Return the node that listens there. Raises: NodeFailed."""
        for node_id, node in [*self.engine.nodes.items(), *self.elsewhere.nodes.items()]:
            if node.is_alive and node.address == address and not self.node(node_id).is_deaf:
                return self.node(node_id)
        raise NodeFailed("connection refused")

    def store(self, processor_id: str) -> Store:
        """Return the processor's store."""
        return self.stores.setdefault(processor_id, Store())

    async def engine_returns(self) -> None:
        """Have the engine answer again, and let as much time pass as it may not be asked."""
        self.engine.knobs.is_out_of_reach = False
        await self.clock.turn(PAUSE_MAX_S)

    async def run(self, call: Coroutine[Any, Any, T], *, step_s: float = 0.5, within_s: float = 600.0) -> T:
        """Return what the call returns, turning the clock for it if need be."""
        task = asyncio.create_task(call)
        await settle()
        until_s = self.clock.time_s + within_s
        while not task.done():
            assert self.clock.time_s < until_s, "the call never ended"
            await self.clock.turn(step_s)
        return await task

    async def sessions(self) -> dict[str, SessionStatus]:
        """Return the status of every session on record."""
        records = await MemoryRegistry(self.tables).sessions(SessionQuery(), limit=100_000)
        return {record.session_id: record.status for record in records}

    async def records(self) -> dict[str, NodeState]:
        """Return the state of every node on record."""
        return {node.node_id: node.state for node in await MemoryRegistry(self.tables).nodes()}


class FakeClient:
    """Calls nodes of a world as the HTTP client would."""

    def __init__(self, world: World, knob: Knob | None) -> None:
        self._world = world
        self._knob = knob

    async def identity(self, node: NodeRecord, *, timeout_s: float) -> Identity:
        """See NodeClient."""
        return await self._call("identity", lambda: self._world.at(node.internal).identity)

    async def vitals(self, node: NodeRecord, *, timeout_s: float) -> Vitals:
        """See NodeClient."""
        self._world.at(node.internal)
        return Vitals(memory_bytes=2**20, idle_s=1.0)

    async def bind(self, node: NodeRecord, request: BindRequest, *, timeout_s: float) -> BindReply:
        """See NodeClient."""
        return await self._call("bind", lambda: self._bind(self._world.at(node.internal), request))

    async def open_session(self, node: NodeRecord, request: OpenSession, *, timeout_s: float) -> SessionInfo:
        """See NodeClient."""
        return await self._call("open_session", lambda: self._open(self._meant(node), request))

    async def session(self, node: NodeRecord, session_id: str, *, timeout_s: float) -> SessionInfo:
        """See NodeClient."""
        return await self._call("session", lambda: self._info(self._meant(node), session_id, created=False))

    async def configure(
        self, node: NodeRecord, session_id: str, values: Mapping[str, Any], *, timeout_s: float
    ) -> SessionInfo:
        """See NodeClient."""
        return await self._call("configure", lambda: self._configure(self._meant(node), session_id, values))

    async def close_session(self, node: NodeRecord, session_id: str, *, incarnation: str, timeout_s: float) -> None:
        """See NodeClient."""
        await self._call("close_session", lambda: self._close(self._meant(node), session_id, incarnation))

    async def drain(self, node: NodeRecord, *, timeout_s: float) -> None:
        """See NodeClient."""
        await self._call("drain", lambda: self._drain(self._meant(node)))

    async def _call(self, name: str, work: Callable[[], T]) -> T:
        if self._knob is None:
            return work()
        await self._knob(f"node.{name}", "before")
        result = work()
        await self._knob(f"node.{name}", "after")
        return result

    def _meant(self, node: NodeRecord) -> FakeNode:
        found = self._world.at(node.internal)
        if (found.state, found.processor_id, found.epoch) != ("bound", node.processor_id, node.epoch):
            raise NodeRefused(status=421, code="WRONG_NODE", message="not me", details={})
        if self._world.store(found.processor_id or "").epoch != found.epoch:
            self._world.engine.kill(found.node_id)  # fenced: it stops
            raise NodeFailed("broke off")
        return found

    def _bind(self, node: FakeNode, request: BindRequest) -> BindReply:
        if node.state != "unbound":
            raise NodeRefused(status=409, code="CONFLICT", message="bound already", details={})
        store = self._world.store(request.processor_id)
        store.epoch += 1
        node.state, node.processor_id, node.epoch = "bound", request.processor_id, store.epoch
        node.own_session = request.own_session
        if request.purge:
            self._purge(node)
        for ended in request.ended_sessions:
            self._close(node, ended.session_id, ended.incarnation)
        session = None if request.session is None else self._open(node, request.session)
        return BindReply(identity=node.identity, session=session)

    def _open(self, node: FakeNode, request: OpenSession) -> SessionInfo:
        if "bad" in request.config:
            details = {"errors": [{"field": "bad", "message": "unknown field"}]}
            raise NodeRefused(status=422, code="VALIDATION_ERROR", message="bad", details=details)
        store = self._world.store(node.processor_id or "")
        found = store.sessions.get(request.session_id)
        created = found is None or found.incarnation != request.incarnation
        if created:
            config = {"persistence": 5, **request.config}
            store.sessions[request.session_id] = StoredSession(request.incarnation, config)
        return self._info(node, request.session_id, created=created)

    def _info(self, node: FakeNode, session_id: str, *, created: bool) -> SessionInfo:
        found = self._world.store(node.processor_id or "").sessions.get(session_id)
        if found is None:
            raise NodeRefused(status=404, code="SESSION_NOT_FOUND", message="unknown", details={})
        config = dict(found.config)
        return SessionInfo(session_id=session_id, config=config, created=created, stm_length=0, time=0)

    def _configure(self, node: FakeNode, session_id: str, values: Mapping[str, Any]) -> SessionInfo:
        if "bad" in values:
            raise NodeRefused(status=422, code="VALIDATION_ERROR", message="bad", details={})
        self._info(node, session_id, created=False)
        found = self._world.store(node.processor_id or "").sessions[session_id]
        found.config = {**found.config, **values}
        return self._info(node, session_id, created=False)

    def _purge(self, node: FakeNode) -> None:
        store = self._world.store(node.processor_id or "")
        store.sessions.clear()
        store.patterns = 0

    def _close(self, node: FakeNode, session_id: str, incarnation: str) -> None:
        sessions = self._world.store(node.processor_id or "").sessions
        if session_id in sessions and sessions[session_id].incarnation == incarnation:
            del sessions[session_id]

    def _drain(self, node: FakeNode) -> None:
        node.state = "draining"
        if self._world.drains_end:
            self._world.engine.kill(node.node_id)


class KnobRuntime:
    """A runtime whose every call can be made to fail."""

    def __init__(self, inner: Runtime, knob: Knob) -> None:
        self.name = inner.name
        self.capabilities = inner.capabilities
        self.exits = inner.exits
        self.open = inner.open
        self.close = inner.close
        self.rename = inner.rename
        self._inner = inner
        self._knob = knob

    @property
    def engine(self) -> str:
        """See Runtime."""
        return self._inner.engine

    async def start(self, spec: NodeSpec, *, timeout_s: float) -> NodeStatus:
        """See Runtime. A failure after the start leaves nothing behind, as the protocol demands."""
        await self._knob("runtime.start", "before")
        status = await self._inner.start(spec, timeout_s=timeout_s)
        try:
            await self._knob("runtime.start", "after")
        except BaseException as error:
            if not isinstance(error, Killed):
                await self._inner.remove(spec.node_id)
            raise
        return status

    async def status(self, node_id: str) -> NodeStatus:
        """See Runtime."""
        return await self._around("status", lambda: self._inner.status(node_id))

    async def list(self) -> Sequence[NodeStatus]:
        """See Runtime."""
        return await self._around("list", self._inner.list)

    async def stop(self, node_id: str, *, grace_s: float) -> None:
        """See Runtime."""
        await self._around("stop", lambda: self._inner.stop(node_id, grace_s=grace_s))

    async def remove(self, node_id: str) -> None:
        """See Runtime."""
        await self._around("remove", lambda: self._inner.remove(node_id))

    async def _around(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        await self._knob(f"runtime.{name}", "before")
        result = await work()
        await self._knob(f"runtime.{name}", "after")
        return result


class Killed(asyncio.CancelledError):
    """The gateway is no more; raised into whatever it still tries."""


def _named(part: str, knob: Knob) -> Knob:
    async def named(name: str, phase: Phase) -> None:
        await knob(f"{part}.{name}", phase)

    return named


async def kill(*gateways: Lifecycle) -> None:
    """End every task of the gateways at once; whatever they try meanwhile must be made to raise Killed by their knob.

    As all tasks but the test's own are theirs, which gateways is of no matter.
    """
    assert gateways
    me = asyncio.current_task()
    while tasks := [task for task in asyncio.all_tasks() if task is not me]:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def serving(
    world: World, *, policy: LifecyclePolicy = POLICY, knob: Knob | None = None, env: str = "1"
) -> AsyncIterator[Lifecycle]:
    """Serve by a gateway for the block; afterwards no node, no trace, no task of it may be left."""
    gateway = world.gateway(policy=policy, knob=knob, env=env)
    await world.run(gateway.start())
    await settle()
    yield gateway
    await world.run(gateway.stop())
    assert world.engine.nodes == {}
    assert await world.records() == {}
    assert world.tables.gateways == {}
    assert len(asyncio.all_tasks()) == 1


async def assert_sound(world: World, gateway: Lifecycle) -> None:
    """Assert that nothing is leaked and nothing lost: records, runtime, nodes, stores and routes tell one story."""
    registry = MemoryRegistry(world.tables)
    nodes = {node.node_id: node for node in await registry.nodes()}
    sessions = await registry.sessions(SessionQuery(), limit=100_000)
    assert sorted(nodes) == world.alive() == sorted(world.engine.nodes)
    assert {node.state for node in nodes.values()} <= {NodeState.POOL, NodeState.BOUND}
    assert {session.status for session in sessions} <= set(SessionStatus) - {SessionStatus.CREATING}
    active = [session for session in sessions if session.status is SessionStatus.ACTIVE]
    for session in active:
        assert nodes[session.node_id or ""].processor_id == session.processor_id
    for node in nodes.values():
        own = world.node(node.node_id)
        told = (own.state, own.processor_id, own.epoch)
        if node.state is NodeState.BOUND:
            assert told == ("bound", node.processor_id, node.epoch)
            assert node.epoch == world.store(node.processor_id or "").epoch
            assert node.node_id in {session.node_id for session in active}, "serves nobody"
        else:
            assert told == ("unbound", None, None)
            assert gateway.pool.has(node.node_id), "nobody can claim it"
    live = {(record.processor_id, record.session_id, record.incarnation) for record in sessions if record.live}
    stored = {
        (processor_id, session_id, session.incarnation)
        for processor_id, store in world.stores.items()
        for session_id, session in store.sessions.items()
    }
    owed = {tuple(key.split("/")) for key in world.tables.leftovers}
    assert live <= stored, "lost"
    assert stored <= live | owed, "leaked into a store"
    for session in sessions:
        route = gateway.routes.get(session.session_id)
        if route is not None:
            assert (session.status, session.node_id) == (SessionStatus.ACTIVE, route.node_id)
            assert (route.epoch, route.address) == (nodes[route.node_id].epoch, nodes[route.node_id].internal)


async def created(world: World, gateway: Lifecycle, session_id: str, **wanted: Any) -> Created:
    """Create a session, turning the clock if need be."""
    return await world.run(gateway.create(CreateSession(session_id=session_id, **wanted)))

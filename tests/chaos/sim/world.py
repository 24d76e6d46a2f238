"""A whole installation in one process: gateways, nodes, their runtime and what is stored, all of it the real code.

The world outlives its processes: what runs, what is registered and what is stored stays when one of them dies.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import aiohttp

from container_manager.errors import RuntimeUnavailable
from container_manager.runtimes.memory import MemoryEngine, MemoryRuntime
from container_manager.spec import Liveness, NodeSpec, NodeStatus
from kato_gateway.dataplane.attempts import Limits
from kato_gateway.dataplane.plane import DataPlane
from kato_gateway.domain.errors import GatewayError, RegistryUnavailable
from kato_gateway.domain.owners import NO_KEYS
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.nodes.client import HttpNodeClient
from kato_gateway.registry.memory import MemoryRegistry, MemoryTables
from kato_node.api.app import create_app
from kato_node.domain.config import DEFAULT
from kato_node.domain.limits import LIMITS
from kato_node.node import Node
from kato_node.settings import Settings
from kato_node.store.memory import MemoryDisk
from kato_node.wire.tokens import node_secret
from tests.chaos.sim.network import HttpClient, Listener, Network
from tests.chaos.sim.process import Process
from tests.chaos.sim.storage import SimStore, Troubles

T = TypeVar("T")

DEPLOYMENT = "here"
SECRET = "secret"
EPOCH_S = 1_000_000.0
BOOT_S = 0.3
RESTART_S = 0.7
UNHEARD = 0.25  # of the nodes' ends nobody is told
POLICY = LifecyclePolicy(warm_pool_size=1, idle_timeout_s=120.0, quarantine_s=5.0)


class SimClock:
    """The time as a gateway's machine tells it: it may jump."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_s(self) -> float:
        """See Clock."""
        return EPOCH_S + self.ahead_s + asyncio.get_running_loop().time()

    def monotonic_s(self) -> float:
        """See Clock."""
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        """See Clock."""
        await asyncio.sleep(delay_s)


@dataclass(slots=True, kw_only=True)
class Gateway:
    """A gateway that runs."""

    process: Process
    lifecycle: Lifecycle
    plane: DataPlane
    ready: asyncio.Task[None]


class Engine(MemoryEngine):
    """The memory runtime's engine, whose nodes are processes, whose ports are reused, and whose news may be late."""

    world: World

    def kill(self, node_id: str, exit_status: int = 0) -> None:
        """See MemoryEngine."""
        self.nodes[node_id].exit_status = exit_status
        if node_id not in self.world.cut_off:
            self.world.processes[node_id].kill()
        self.ended(node_id)

    def ended(self, node_id: str) -> None:
        """Hear that the node is no more; tell those who listen, now or later or never."""
        node = self.nodes.get(node_id)
        if node is None or not node.is_alive:
            return
        node.is_alive = False
        if self.world.chance.random() > UNHEARD:
            delay_s = self.world.chance.choice((0.0, 0.01, 0.8))
            asyncio.get_running_loop().call_later(delay_s, self._tell, node_id)

    def _tell(self, node_id: str) -> None:
        for listener in list(self.listeners):
            listener.put_nowait(node_id)


class World:
    """What outlives its processes.

    Attributes:
        processes: every node's that ever was, by its id.
        cut_off: the nodes that the engine takes for dead, and that live.
        is_registry_cut: nobody reaches the registry.
        start_troubles: what becomes of the next starts of nodes.
        answers_lost: answers to clients that get lost from now on.
        hurry_s: how long clients wait for an answer before they hang up; None: long.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"{seed}/world")
        self.clock = SimClock()
        self.network = Network()
        self.disk = MemoryDisk()
        self.tables = MemoryTables()
        self.engine = Engine(ports=cast("object", _Ports(self.network, self.chance)))  # type: ignore[arg-type]  # what is asked for is `next`
        self.engine.world = self
        self.troubles: dict[str, Troubles] = defaultdict(Troubles)
        self.processes: dict[str, Process] = {}
        self.nodes: dict[str, Node] = {}
        self.cut_off: set[str] = set()
        self.is_registry_cut = False
        self.start_troubles: list[Literal["fails", "loses-reply", "dies"]] = []
        self.answers_lost = 0
        self.hurry_s: float | None = None
        self.gateway: Gateway | None = None
        self._gateways = 0

    def take_for_dead(self, node_id: str) -> None:
        """Have the engine take a node for dead that lives."""
        self.cut_off.add(node_id)
        self.engine.ended(node_id)

    def kill_nodes(self) -> None:
        """Kill every node, without a word to anybody."""
        for node_id, process in self.processes.items():
            if process.alive and node_id not in self.cut_off:
                self.engine.nodes[node_id].is_alive = False
                process.kill()

    def start_gateway(self) -> Gateway:
        """Start a gateway, as whoever keeps it running does once the one before is dead."""
        self._gateways += 1
        process = Process(f"gateway-{self._gateways}")
        process.died = lambda: void(asyncio.get_running_loop().call_later(RESTART_S, self.start_gateway))
        nodes = HttpNodeClient(SECRET)
        http = cast("aiohttp.ClientSession", HttpClient(self.network))
        nodes._http = http
        lifecycle = Lifecycle(
            registry=MemoryRegistry(self.tables, lambda name, phase: self._registry_knob(process, name, phase)),
            runtime=SimRuntime(self, process),
            client=nodes,
            new_spec=lambda node_id, at_s: NodeSpec(
                node_id=node_id, deployment=DEPLOYMENT, env={"NODE_ID": node_id}, created_at_s=at_s
            ),
            policy=POLICY,
            clock=self.clock,
            secret=SECRET,
            gateway_id=DEPLOYMENT,
        )
        plane = DataPlane(
            _nowhere, resolver=lifecycle, usage=lifecycle.activity, client=http, limits=Limits(), keys=NO_KEYS
        )
        ready = process.run(_started(process, lifecycle))
        self.gateway = Gateway(process=process, lifecycle=lifecycle, plane=plane, ready=ready)
        return self.gateway

    async def boot(self, spec: NodeSpec, port: int) -> None:
        """Start a node's process, and return once it listens."""
        process = self.processes[spec.node_id] = Process(f"node-{spec.node_id}")
        process.died = lambda: self.engine.ended(spec.node_id)
        listening = asyncio.Event()
        process.run(self._node(process, spec.node_id, port, listening))
        await listening.wait()

    async def _node(self, process: Process, node_id: str, port: int, listening: asyncio.Event) -> None:
        node = Node(
            node_id=node_id,
            open_store=lambda processor_id: SimStore(self.disk, processor_id, self.troubles[processor_id], process),
            defaults=DEFAULT,
            limits=LIMITS,
            clock_s=asyncio.get_running_loop().time,
        )
        node.await_bind()
        self.nodes[node_id] = node
        settings = Settings(node_id=node_id, node_secret=node_secret(SECRET, node_id))
        self.network.ports[port] = Listener(process=process, app=create_app(node, settings))
        listening.set()
        await node.stopped.wait()
        process.kill()

    async def _registry_knob(self, process: Process, _name: str, phase: Literal["before", "after"]) -> None:
        await asyncio.sleep(0)
        if not process.alive:
            raise asyncio.CancelledError
        if self.is_registry_cut and phase == self.chance.choice(("before", "after")):
            raise RegistryUnavailable("The registry is out of reach.")


class SimRuntime:
    """A gateway's memory runtime, whose starts take time and whose calls are awaits at which the gateway may die."""

    def __init__(self, world: World, process: Process) -> None:
        self._inner = MemoryRuntime(world.engine, DEPLOYMENT)
        self._world = world
        self._process = process
        self.name = self._inner.name
        self.capabilities = self._inner.capabilities
        self.open = self._inner.open
        self.close = self._inner.close

    @property
    def engine(self) -> str:
        """See Runtime."""
        return str(getattr(self._inner, "engine", "memory"))

    async def start(self, spec: NodeSpec, *, timeout_s: float) -> NodeStatus:
        """See Runtime. The process is the engine's: it boots whether its gateway lives or not."""
        trouble = self._world.start_troubles.pop(0) if self._world.start_troubles else ""
        await self._turn()
        if trouble == "fails":
            raise RuntimeUnavailable("The engine refused.")
        status = await self._inner.start(spec, timeout_s=timeout_s)
        assert status.internal is not None
        await self._world.boot(spec, status.internal.port)
        try:
            await asyncio.sleep(BOOT_S * self._world.chance.random())
            await self._turn()
        except asyncio.CancelledError:
            if self._process.alive:
                await self._inner.remove(spec.node_id)
            raise
        if trouble == "dies":
            self._world.engine.kill(spec.node_id)
        if trouble == "loses-reply":
            raise RuntimeUnavailable("The engine's reply was lost.")
        return status

    async def status(self, node_id: str) -> NodeStatus:
        """See Runtime."""
        await self._turn()
        return await self._inner.status(node_id)

    async def list(self) -> Sequence[NodeStatus]:
        """See Runtime."""
        return await self._around(self._inner.list)

    async def stop(self, node_id: str, *, grace_s: float) -> None:
        """See Runtime: SIGTERM, and after the grace SIGKILL."""
        await self._turn()
        status = await self._inner.status(node_id)
        node = self._world.nodes.get(node_id)
        if status.liveness is Liveness.ALIVE and node is not None and grace_s:
            process = self._world.processes[node_id]
            await asyncio.wait({process.run(node.drain())}, timeout=grace_s)
        await self._around(lambda: self._inner.stop(node_id, grace_s=grace_s))

    async def remove(self, node_id: str) -> None:
        """See Runtime."""
        await self._around(lambda: self._inner.remove(node_id))

    async def rename(self, node_id: str, name: str) -> None:
        """See Runtime."""
        await self._around(lambda: self._inner.rename(node_id, name))

    def exits(self) -> AsyncIterator[str]:
        """See Runtime."""
        return self._inner.exits()

    async def _around(self, work: Callable[[], Awaitable[T]]) -> T:
        await self._turn()
        result = await work()
        await self._turn()
        return result

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if not self._process.alive:
            raise asyncio.CancelledError


class _Ports:
    """Hands out one of the few ports that nobody listens on: whoever had it before is remembered there."""

    def __init__(self, network: Network, chance: random.Random) -> None:
        self._network = network
        self._chance = chance

    def __next__(self) -> int:
        used = [port for port, listener in self._network.ports.items() if not listener.process.alive]
        return self._chance.choice([*used, 20_000 + len(self._network.ports)])


async def _started(process: Process, lifecycle: Lifecycle) -> None:
    """Start to serve; a gateway that cannot ends, and is started again."""
    try:
        await lifecycle.start()
    except GatewayError:
        process.kill()


def void(_value: object) -> None:
    """Drop a value."""


async def _nowhere(_scope: object, _receive: object, _send: object) -> None:
    raise AssertionError("every call is an operation's")

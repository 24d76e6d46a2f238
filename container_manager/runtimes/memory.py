"""Nodes that are only values: a runtime for tests, with a knob for each way in which a real one fails."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from container_manager.errors import ContainerError, NameTaken, RuntimeUnavailable, StartTimeout
from container_manager.runtime import Capabilities
from container_manager.spec import Address, Liveness, NodeSpec, NodeStatus

_PORT_MIN = 20_000


@dataclass(slots=True, kw_only=True)
class Knobs:
    """What goes wrong, for as long as it is set.

    Attributes:
        start_gate: a start waits until this is set, or its time is over.
        start_error: a start raises this, and nothing was started.
        dies_after_start: a start succeeds, and the node is dead right after.
        loses_reply: a start starts the node and says that the engine is out of reach.
        is_out_of_reach: every status is UNKNOWN, everything else raises RuntimeUnavailable.
    """

    start_gate: asyncio.Event | None = None
    start_error: ContainerError | None = None
    dies_after_start: bool = False
    loses_reply: bool = False
    is_out_of_reach: bool = False


@dataclass(slots=True, kw_only=True)
class _Node:
    spec: NodeSpec
    address: Address
    is_alive: bool = True
    exit_status: int = 0
    name: str = ""


@dataclass(slots=True, kw_only=True)
class MemoryEngine:
    """The ground that several runtimes can stand on; nodes live on in it when a runtime is closed and made anew."""

    id: str = field(default_factory=lambda: secrets.token_hex(6))
    knobs: Knobs = field(default_factory=Knobs)
    nodes: dict[str, _Node] = field(default_factory=dict)
    ports: itertools.count[int] = field(default_factory=lambda: itertools.count(_PORT_MIN))
    listeners: weakref.WeakKeyDictionary[asyncio.Queue[str | None], str] = field(
        default_factory=weakref.WeakKeyDictionary
    )

    def kill(self, node_id: str, exit_status: int = 0) -> None:
        """Have the node end by itself; everybody of its deployment who listens hears of it."""
        node = self.nodes[node_id]
        if not node.is_alive:
            return
        node.is_alive = False
        node.exit_status = exit_status
        for listener, deployment in self.listeners.items():
            if deployment == node.spec.deployment:
                listener.put_nowait(node_id)


class MemoryRuntime:
    """A runtime of one deployment on an engine in memory."""

    name = "memory"
    capabilities = Capabilities(shares_files=True, limits_memory=True, limits_cpus=True, renames=True)

    def __init__(self, engine: MemoryEngine, deployment: str) -> None:
        self._engine = engine
        self._deployment = deployment

    @property
    def engine(self) -> str:
        """See the protocol."""
        return f"memory:{self._engine.id}"

    async def open(self) -> None:
        """See the protocol."""
        self._reach()

    async def close(self, *, leave_nodes: bool = False) -> None:  # noqa: ARG002 - it started nothing for itself
        """End the iterators of exits."""
        for listener, deployment in self._engine.listeners.items():
            if deployment == self._deployment:
                listener.put_nowait(None)

    async def start(self, spec: NodeSpec, *, timeout_s: float) -> NodeStatus:
        """Start as the knobs say."""
        knobs = self._engine.knobs
        self._reach()
        if spec.node_id in self._engine.nodes:
            raise NameTaken(f"{spec.name} is there already; adopt or remove it")
        if knobs.start_gate is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await knobs.start_gate.wait()
            except TimeoutError:
                raise StartTimeout(f"{spec.name} was not healthy within {timeout_s:g} s") from None
        if knobs.start_error is not None:
            raise knobs.start_error
        address = Address(host="127.0.0.1", port=next(self._engine.ports))
        node = self._engine.nodes[spec.node_id] = _Node(spec=spec, address=address)
        status = _status(node)
        if knobs.dies_after_start:
            self._engine.kill(spec.node_id)
        if knobs.loses_reply:
            raise RuntimeUnavailable("the engine's reply was lost")
        return status

    async def status(self, node_id: str) -> NodeStatus:
        """See the protocol."""
        if self._engine.knobs.is_out_of_reach:
            return NodeStatus(node_id=node_id, liveness=Liveness.UNKNOWN)
        node = self._engine.nodes.get(node_id)
        return NodeStatus(node_id=node_id, liveness=Liveness.DEAD) if node is None else _status(node)

    async def list(self) -> Sequence[NodeStatus]:
        """See the protocol."""
        self._reach()
        return [_status(node) for node in self._engine.nodes.values() if node.spec.deployment == self._deployment]

    async def stop(self, node_id: str, *, grace_s: float) -> None:  # noqa: ARG002 - it ends when asked
        """See the protocol."""
        self._reach()
        if self._own(node_id) is not None:
            self._engine.kill(node_id)

    async def remove(self, node_id: str) -> None:
        """See the protocol."""
        self._reach()
        if self._own(node_id) is not None:
            self._engine.kill(node_id)
            del self._engine.nodes[node_id]

    async def rename(self, node_id: str, name: str) -> None:
        """See the protocol."""
        self._reach()
        node = self._own(node_id)
        if node is not None:
            node.name = name

    def exits(self) -> AsyncIterator[str]:
        """See the protocol."""
        listener: asyncio.Queue[str | None] = asyncio.Queue()
        self._engine.listeners[listener] = self._deployment
        return _until_none(listener)

    def _reach(self) -> None:
        if self._engine.knobs.is_out_of_reach:
            raise RuntimeUnavailable("the engine does not answer")

    def _own(self, node_id: str) -> _Node | None:
        node = self._engine.nodes.get(node_id)
        if node is not None and node.spec.deployment != self._deployment:
            raise ContainerError(f"{node.spec.name} belongs to another deployment, {node.spec.deployment}")
        return node


async def _until_none(queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
    while (node_id := await queue.get()) is not None:
        yield node_id


def _status(node: _Node) -> NodeStatus:
    return NodeStatus(
        node_id=node.spec.node_id,
        liveness=Liveness.ALIVE if node.is_alive else Liveness.DEAD,
        deployment=node.spec.deployment,
        role=node.spec.role,
        spec_hash=node.spec.spec_hash,
        created_at_s=node.spec.created_at_s,
        internal=node.address,
        external=node.address,
        exit_status=None if node.is_alive else node.exit_status,
    )

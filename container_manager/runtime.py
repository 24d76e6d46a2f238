"""The protocol that every runtime obeys; tests/conformance holds each of them to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from container_manager.spec import NodeSpec, NodeStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a runtime can do beside the protocol.

    Attributes:
        shares_files: nodes see the gateway's own file system, so that embedded SQLite serves them.
        limits_memory, limits_cpus: the limits of a spec are enforced.
        renames: `rename` gives a node a name for people.
    """

    shares_files: bool
    limits_memory: bool
    limits_cpus: bool
    renames: bool


class Runtime(Protocol):
    """Starts, finds, stops and removes the nodes of one deployment. Ids in, values out; safe for concurrent use."""

    name: str
    capabilities: Capabilities

    @property
    def engine(self) -> str:
        """Which engine this is: the same for every runtime on it, another's differs. Known once opened."""

    async def open(self) -> None:
        """Connect, starting what the runtime itself needs.

        Raises: RuntimeUnavailable.
        """

    async def close(self, *, leave_nodes: bool = False) -> None:
        """Let go of the runtime's own resources. Unless `leave_nodes`, what the runtime started for itself ends too,
        once no node needs it. Nodes are not stopped here; that is the owner's decision.
        """

    async def start(self, spec: NodeSpec, *, timeout_s: float) -> NodeStatus:
        """Create and start a node and wait until its health check answers; its status is ALIVE with addresses.

        On failure or cancellation nothing is left behind.
        Raises: ImageMissing, NameTaken, StartFailed, StartTimeout, ResourcesExhausted, RuntimeUnavailable.
        """

    async def status(self, node_id: str) -> NodeStatus:
        """Say what is known of one node. A node that never was is DEAD; no answer from the runtime is UNKNOWN."""

    async def list(self) -> Sequence[NodeStatus]:
        """Return every node of this deployment that left a trace, dead ones included, no other deployment's.

        Raises: RuntimeUnavailable: never an empty list in doubt.
        """

    async def stop(self, node_id: str, *, grace_s: float) -> None:
        """Ask the node to end (SIGTERM), insist after `grace_s` (SIGKILL); return once it is dead. Idempotent.

        Raises: RuntimeUnavailable.
        """

    async def remove(self, node_id: str) -> None:
        """Stop the node if need be and forget every trace of it. Idempotent.

        Raises: RuntimeUnavailable.
        """

    async def rename(self, node_id: str, name: str) -> None:
        """Give the node a name for people, where the runtime can; the id stays what it is addressed by."""

    def exits(self) -> AsyncIterator[str]:
        """Yield the id of each node that ends, soon after it did. A hint: it may miss some, so `list` now and then."""

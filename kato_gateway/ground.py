"""What every part of the lifecycle stands on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from container_manager.runtime import Runtime
from container_manager.spec import NodeSpec
from kato_gateway.clock import Clock
from kato_gateway.dataplane.routes import RouteTable
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.events import Events
from kato_gateway.nodes.protocol import NodeClient
from kato_gateway.registry.base import Registry
from kato_gateway.tasks import Tasks

# Makes the specification of a node: (its id, when its intent was recorded in seconds since the epoch). Nodes that get
# equal settings beside their id are interchangeable.
NewSpec: TypeAlias = Callable[[str, float], NodeSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The outside, the settings, who owns the tasks, who hears what happens, and where calls go.

    Attributes:
        registry, runtime: guarded, so that no call waits without a deadline (guard.py).
        secret: the deployment's, under which tokens are issued; in nothing that is printed.
    """

    registry: Registry
    runtime: Runtime
    client: NodeClient
    new_spec: NewSpec
    policy: LifecyclePolicy
    clock: Clock
    secret: str = field(default="", repr=False)
    events: Events = field(default_factory=Events)
    tasks: Tasks = field(default_factory=Tasks)
    routes: RouteTable = field(default_factory=RouteTable)

    @property
    def spec_hash(self) -> str:
        """Equal for the nodes that are interchangeable with those started today."""
        return self.new_spec("", 0.0).spec_hash

    @property
    def engine(self) -> str:
        """Where its nodes run; what is on record of another is not this gateway's to judge."""
        return self.runtime.engine

    @property
    def deployment(self) -> str:
        """The installation whose nodes these are."""
        return self.new_spec("", 0.0).deployment

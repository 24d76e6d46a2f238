"""What a node is to be, and what a runtime says of it: values only."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

_OWN = frozenset({"NODE_ID", "NODE_SECRET"})


class Liveness(Enum):
    """What the runtime knows. Only DEAD lets a route or a record go; nothing is stopped or removed while UNKNOWN."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a node listens: a host name or IP, and a TCP port in 1..65535."""

    host: str
    port: int

    @property
    def http_url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A node to start. The id is its own, for life; what it is bound to later is not part of it.

    Attributes:
        node_id: `new_node_id()`; the runtime's name for the node is `kato-<node_id>`.
        deployment: the id of the installation that owns the node; another deployment's nodes are never touched.
        role: "node" for a gateway's nodes, "static" for those of `KatoContainerManager.create_processor`.
        env: the node's settings (api.md, section 6), complete: a runtime adds only HOST, PORT and where to log.
        image: the image to run; None where the runtime has no images.
        memory_max_bytes, cpus_max: limits, None for none; its capabilities say what a runtime enforces.
        created_at_s: seconds since the epoch, when the intent was recorded.
    """

    node_id: str
    deployment: str
    env: Mapping[str, str]
    created_at_s: float
    role: str = "node"
    image: str | None = None
    memory_max_bytes: int | None = None
    cpus_max: float | None = None

    @property
    def name(self) -> str:
        """The name that the runtime knows the node by."""
        return f"kato-{self.node_id}"

    @property
    def spec_hash(self) -> str:
        """Equal for two specs that make interchangeable nodes; what is one node's own is not part of it."""
        shared = sorted(item for item in self.env.items() if item[0] not in _OWN)
        facts = [self.role, shared, self.image, self.memory_max_bytes, self.cpus_max]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """What a runtime says of one node.

    Attributes:
        internal: where the gateway reaches it; external: where a client on this host reaches it. None until known.
        pid: of the node's process, where the runtime has one.
        memory_bytes: resident memory, where it is cheap to tell.
        exit_status: of a dead node, where the runtime knows it: 0..255, 128 + n for a death by signal n.
    """

    node_id: str
    liveness: Liveness
    deployment: str = ""
    role: str = ""
    spec_hash: str = ""
    created_at_s: float = 0.0
    internal: Address | None = None
    external: Address | None = None
    pid: int | None = None
    memory_bytes: int | None = None
    exit_status: int | None = None


def new_node_id() -> str:
    """Return a fresh node id: 12 characters of 0-9a-f, fit for a container name, a file name and a DNS label."""
    return secrets.token_hex(6)

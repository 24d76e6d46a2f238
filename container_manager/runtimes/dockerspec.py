"""What a node is to the engine: the arguments that create its container, and what a listing of it says. Pure.

Nodes are found by their labels, never by a name: names are for people, and change.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from container_manager.spec import Address, Liveness, NodeSpec, NodeStatus

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

DEPLOYMENT, NODE, ROLE, SPEC_HASH, CREATED = (
    "kato.deployment",
    "kato.node",
    "kato.role",
    "kato.spec-hash",
    "kato.created",
)
START = "kato.start"  # which call of start made it: what undoes a start removes no other's container

PORT = 8000
_PORT_KEY = f"{PORT}/tcp"
_LOOPBACK = "127.0.0.1"
_PIDS_MAX = 256
_TMP = "rw,noexec,nosuid,nodev,size=64m,mode=1777"
_LOG: Json = {"Type": "json-file", "Config": {"max-size": "8m", "max-file": "2"}}

# "removing" comes after the process's end. "restarting" may run again at any time: nobody's doing here, so in doubt.
_LIVENESS = {
    "running": Liveness.ALIVE,
    "paused": Liveness.ALIVE,
    "created": Liveness.DEAD,
    "exited": Liveness.DEAD,
    "dead": Liveness.DEAD,
    "removing": Liveness.DEAD,
}


class _PortEntry(TypedDict, total=False):
    IP: str
    PrivatePort: int
    PublicPort: int


class _Endpoint(TypedDict):
    NetworkID: str
    IPAddress: str


class _NetworkSettings(TypedDict):
    Networks: dict[str, _Endpoint]


class Summary(TypedDict):
    """One container in the engine's answer to GET /containers/json, as far as it is read here."""

    Id: str
    State: str
    Status: str
    Labels: dict[str, str]
    Ports: list[_PortEntry]
    NetworkSettings: _NetworkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A container as it was listed.

    Attributes:
        port: on the host's loopback; None unless it runs.
        ips: network id -> its address there.
        exit_status: of one that has ended.
    """

    id: str
    liveness: Liveness
    labels: Mapping[str, str]
    port: int | None
    ips: Mapping[str, str]
    exit_status: int | None


def container_config(spec: NodeSpec, *, network_id: str, start: str) -> dict[str, Json]:
    """Return the body of POST /containers/create for a node. Source: Docker Engine API, ContainerCreate.

    The image's health check is off: readiness is asked for over HTTP by whoever starts and uses nodes, and a program
    run in each of a hundred containers every half minute costs more than the nodes. An init is process 1: the kernel
    drops SIGTERM for a process 1 that has no handler yet, so a node could not be stopped while it boots.
    """
    env = {**spec.env, "NODE_ID": spec.node_id, "HOST": "0.0.0.0", "PORT": str(PORT)}  # noqa: S104 - its own network's
    return {
        "Image": spec.image,
        "Env": [f"{name}={value}" for name, value in env.items()],
        "Labels": labels_of(spec, start=start),
        "ExposedPorts": {_PORT_KEY: {}},
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(spec, network_id),
    }


def labels_of(spec: NodeSpec, *, start: str) -> dict[str, Json]:
    """Return the labels that a node is found by."""
    return {
        DEPLOYMENT: spec.deployment,
        NODE: spec.node_id,
        ROLE: spec.role,
        SPEC_HASH: spec.spec_hash,
        CREATED: repr(spec.created_at_s),
        START: start,
    }


def _host_config(spec: NodeSpec, network_id: str) -> dict[str, Json]:
    memory_bytes = spec.memory_max_bytes or 0  # 0: no limit
    return {
        "NetworkMode": network_id,
        "PortBindings": {_PORT_KEY: [{"HostIp": _LOOPBACK, "HostPort": ""}]},
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": _TMP},  # noqa: S108 - inside the container
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": _PIDS_MAX,
        "Memory": memory_bytes,
        "MemorySwap": memory_bytes,
        "NanoCpus": int((spec.cpus_max or 0) * 1e9),
        "Init": True,
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,  # a dead node leaves its trace until it is removed
        "LogConfig": _LOG,
    }


def found_in(summary: Summary) -> Found:
    """Read one entry of a listing."""
    ports = (entry.get("PublicPort") for entry in summary["Ports"] if entry.get("PrivatePort") == PORT)
    endpoints = summary["NetworkSettings"]["Networks"].values()
    exited = re.match(r"Exited \((\d+)\)", summary["Status"])  # a listing says it to people only
    return Found(
        id=summary["Id"],
        liveness=_LIVENESS.get(summary["State"], Liveness.UNKNOWN),
        labels=summary["Labels"],
        port=next((port for port in ports if port), None),
        ips={endpoint["NetworkID"]: endpoint["IPAddress"] for endpoint in endpoints if endpoint["IPAddress"]},
        exit_status=int(exited[1]) if exited else None,
    )


def status_of(found: Found, *, inside: str | None) -> NodeStatus:
    """Return what is known of a node.

    Args:
        inside: the id of the network that we are on ourselves, None if we reach nodes over the host's loopback.
    """
    external = None if found.port is None else Address(host=_LOOPBACK, port=found.port)
    ip = None if inside is None else found.ips.get(inside)
    within = None if ip is None else Address(host=ip, port=PORT)
    return NodeStatus(
        node_id=found.labels[NODE],
        liveness=found.liveness,
        deployment=found.labels.get(DEPLOYMENT, ""),
        role=found.labels.get(ROLE, ""),
        spec_hash=found.labels.get(SPEC_HASH, ""),
        created_at_s=_seconds(found.labels.get(CREATED, "")),
        internal=external if inside is None else within,
        external=external,
        exit_status=found.exit_status,
    )


def likeliest(found: Collection[Found]) -> Found | None:
    """Of several containers of one node, of which there should be one, return one that may run, else any."""
    order = (Liveness.ALIVE, Liveness.UNKNOWN, Liveness.DEAD)
    return min(found, key=lambda each: (order.index(each.liveness), each.id), default=None)


def own_container(mountinfo: str) -> str | None:
    """Return the id of the container that we run in, None if in none. Source: proc(5), /proc/PID/mountinfo.

    The engine mounts a container's /etc/hostname from a directory that is named by its id.
    """
    for line in mountinfo.splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4] == "/etc/hostname":
            matched = re.search(r"/containers/([0-9a-f]{64})/hostname$", fields[3])
            if matched:
                return matched[1]
    return None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0

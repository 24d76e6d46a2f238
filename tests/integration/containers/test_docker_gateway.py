"""Where a gateway reaches its nodes: over the loopback of its host, or, itself in a container, on their network."""

from __future__ import annotations

import json

import pytest

from container_manager.runtimes.docker import DockerRuntime
from tests.dockers import NOTHING, SOCKET, clean_up, left_by, tiny_container, tiny_image
from tests.engine import ROOT, container, docker
from tests.integration.containers.docker_fixtures import deployment, runtime

__all__ = ["deployment", "runtime"]

pytestmark = pytest.mark.docker

TIMEOUT_S = 60.0
_INSIDE = """
import asyncio, json, sys
from container_manager.runtimes.docker import DockerRuntime
from container_manager.spec import NodeSpec

async def main(deployment, network, image):
    runtime = DockerRuntime(deployment, network=network or None)
    await runtime.open()
    spec = NodeSpec(node_id=deployment, deployment=deployment, image=image, env={"TINY": ""}, created_at_s=1.0)
    status = await runtime.start(spec, timeout_s=60)
    print(json.dumps([status.internal.host, status.internal.port, status.external.host, status.external.port]))
    await runtime.close(leave_nodes=True)

asyncio.run(main(*sys.argv[1:]))
"""


def inside(deployment: str, network: str, *options: str) -> str:
    """Start a node from inside a container, and return what the runtime there said, or how it failed."""
    source = ("--volume", f"{ROOT}/container_manager:/source/container_manager:ro", "--env", "PYTHONPATH=/source")
    socket = ("--volume", f"{SOCKET}:/var/run/docker.sock", "--user", "0:0")
    program = ("python", "-c", _INSIDE, deployment, network, tiny_image())
    with container(*source, *socket, *options, command=program) as gateway:
        gateway.exit_code()
        return gateway.log


async def test_a_gateway_in_no_container_of_the_engine_uses_the_loopback(
    runtime: DockerRuntime, deployment: str
) -> None:
    """Outside of containers a node is reached where its port is published, on the loopback, by us and by clients."""
    status = await runtime.start(tiny_container(deployment=deployment), timeout_s=TIMEOUT_S)
    assert status.internal == status.external
    assert status.external is not None
    assert status.external.host == "127.0.0.1"


def test_a_gateway_on_the_nodes_network_reaches_them_there(deployment: str) -> None:
    """In a container on the network a node is reached at its own address there; clients reach it as ever."""
    network = f"kato-{deployment}"
    docker("network", "create", "--label", f"kato.deployment={deployment}", network)
    answer = json.loads(inside(deployment, network, "--network", network))
    (node,) = left_by(deployment).containers
    ip = docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", node)
    port = docker("port", node, "8000").rpartition(":")[2]
    clean_up(deployment)
    assert answer == [ip, 8000, "127.0.0.1", int(port)]


def test_a_gateway_with_the_hosts_network_uses_the_loopback(deployment: str) -> None:
    """In a container that has the host's network, nodes are reached over the loopback."""
    network = f"kato-{deployment}"
    docker("network", "create", "--label", f"kato.deployment={deployment}", network)
    host, port, *external = json.loads(inside(deployment, network, "--network", "host"))
    clean_up(deployment)
    assert [host, port] == external


def test_a_gateway_on_another_network_refuses_to_start(deployment: str) -> None:
    """In a container that is not on the nodes' network, opening fails, says what to set, and leaves no network."""
    assert "set NODE_NETWORK to a network that it is on" in inside(deployment, "")
    assert left_by(deployment) == NOTHING

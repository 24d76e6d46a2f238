"""What a node in a container is born with, what it can reach, and how it ends: as the engine itself tells it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from container_manager.errors import ContainerError, NameTaken, ResourcesExhausted, StartFailed, StartTimeout
from container_manager.runtimes.docker import DockerRuntime
from container_manager.spec import Liveness, NodeSpec
from tests.dockers import docker_runtime, left_by, tiny_container
from tests.engine import container, docker
from tests.integration.containers.docker_fixtures import deployment, runtime
from tests.processes import ask

__all__ = ["deployment", "runtime"]

pytestmark = pytest.mark.docker

TIMEOUT_S = 60.0
MIB = 1024 * 1024


def inspected(node_id: str) -> dict[str, Any]:
    """Return all that the engine knows of a node's container."""
    (found,) = json.loads(docker("inspect", f"kato-{node_id}"))
    return dict(found)


async def test_every_hardening_flag_is_set(runtime: DockerRuntime, deployment: str) -> None:
    """The engine shows each restriction of a node, and nothing of the host is mounted."""
    spec = tiny_container(deployment=deployment)
    limited = NodeSpec(
        node_id=spec.node_id,
        deployment=deployment,
        image=spec.image,
        env=spec.env,
        created_at_s=1.5,
        memory_max_bytes=256 * MIB,
        cpus_max=0.5,
    )
    await runtime.start(limited, timeout_s=TIMEOUT_S)
    facts = inspected(spec.node_id)
    host = facts["HostConfig"]
    assert {
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "CapAdd": None,
        "Privileged": False,
        "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": 256,
        "Memory": 256 * MIB,
        "MemorySwap": 256 * MIB,
        "NanoCpus": 500_000_000,
        "Init": True,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=64m,mode=1777"},
        "LogConfig": {"Type": "json-file", "Config": {"max-file": "2", "max-size": "8m"}},
        "Binds": None,
    }.items() <= host.items()
    assert facts["Mounts"] == []
    assert facts["Config"]["User"] == "10001:10001"
    assert facts["Config"]["StopSignal"] == "SIGTERM"
    assert facts["Config"]["Healthcheck"]["Test"] == ["NONE"]  # the gateway asks; a program run in each costs more
    (binding,) = facts["NetworkSettings"]["Ports"]["8000/tcp"]
    assert binding["HostIp"] == "127.0.0.1"


async def test_a_container_tells_what_it_is(runtime: DockerRuntime, deployment: str) -> None:
    """The labels name deployment, node, role, hash and date of the spec; the name is the node's."""
    spec = tiny_container(deployment=deployment, role="static")
    await runtime.start(spec, timeout_s=TIMEOUT_S)
    labels = inspected(spec.node_id)["Config"]["Labels"]
    assert {
        "kato.deployment": deployment,
        "kato.node": spec.node_id,
        "kato.role": "static",
        "kato.spec-hash": spec.spec_hash,
        "kato.created": repr(spec.created_at_s),
    }.items() <= labels.items()


async def test_the_environment_is_the_specs(runtime: DockerRuntime, deployment: str) -> None:
    """A node sees its spec's settings, also unusual ones, its id and where to listen."""
    spec = tiny_container(deployment=deployment, EMPTY="", UNUSUAL="a=b c\n“é”")
    environment = (await ask(await runtime.start(spec, timeout_s=TIMEOUT_S), "/facts"))["environment"]
    assert isinstance(environment, dict)
    assert {**spec.env, "NODE_ID": spec.node_id, "HOST": "0.0.0.0", "PORT": "8000"}.items() <= environment.items()


async def test_only_tmp_can_be_written(runtime: DockerRuntime, deployment: str) -> None:
    """A node can write to /tmp and nowhere else, runs nothing from there, and is nobody's root."""
    spec = tiny_container(deployment=deployment)
    await runtime.start(spec, timeout_s=TIMEOUT_S)
    name = f"kato-{spec.node_id}"
    docker("exec", name, "sh", "-c", "cp /bin/true /tmp/true")
    with pytest.raises(RuntimeError, match=r"[Pp]ermission denied"):
        docker("exec", name, "sh", "-c", "/tmp/true")
    for place in ("/", "/var/lib/kato", "/opt/kato", "/home"):
        with pytest.raises(RuntimeError, match="Read-only file system"):
            docker("exec", name, "touch", f"{place}/x")
    assert docker("exec", name, "id", "-u") == "10001"
    assert "CapEff:\t0000000000000000" in docker("exec", name, "cat", "/proc/1/status")


def reaches(name: str, host: str, port: int) -> bool:
    """Return whether a connection from inside a container opens."""
    program = f"import socket; socket.create_connection(({host!r}, {port}), timeout=2)"
    try:
        docker("exec", name, "python", "-c", program)
    except RuntimeError:
        return False
    return True


async def test_a_node_reaches_its_network_and_nothing_beyond(runtime: DockerRuntime, deployment: str) -> None:
    """A node reaches another container of its network, but none of another network and no other host's address."""
    spec = tiny_container(deployment=deployment)
    await runtime.start(spec, timeout_s=TIMEOUT_S)
    name = f"kato-{spec.node_id}"
    serve = ("python", "-m", "http.server", "8000", "--directory", "/tmp")
    with (
        container("--network", f"kato-{deployment}", command=serve) as near,
        container("--network", "bridge", command=serve) as far,
    ):
        near_ip = near.inspect()["NetworkSettings"]["Networks"][f"kato-{deployment}"]["IPAddress"]
        far_ip = far.inspect()["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        listening = ("python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8000))")
        for each in (near, far):
            await _until_it_runs(each.id, listening)
        assert reaches(name, near_ip, 8000)
        assert not reaches(name, far_ip, 8000)
    assert not reaches(name, "192.0.2.1", 80)
    (network,) = json.loads(docker("network", "inspect", f"kato-{deployment}"))
    assert (network["Internal"], network["Options"]["com.docker.network.bridge.enable_ip_masquerade"]) == (
        False,
        "false",
    )


async def _until_it_runs(name: str, command: tuple[str, ...]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                docker("exec", name, *command)
            except RuntimeError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_renamed_nodes_id_is_still_taken(runtime: DockerRuntime, deployment: str) -> None:
    """A node that was renamed keeps a second one of its id out, which leaves nothing."""
    spec = tiny_container(deployment=deployment)
    first = await runtime.start(spec, timeout_s=TIMEOUT_S)
    await runtime.rename(spec.node_id, f"kato-anna-{spec.node_id}-1")
    with pytest.raises(NameTaken):
        await runtime.start(spec, timeout_s=TIMEOUT_S)
    assert [status.internal for status in await runtime.list()] == [first.internal]
    assert len(left_by(deployment).containers) == 1


async def test_a_name_that_is_taken_leaves_a_node_its_own(runtime: DockerRuntime, deployment: str) -> None:
    """A rename to another container's name, or to no name at all, changes nothing and is no error."""
    first, second = tiny_container(deployment=deployment), tiny_container(deployment=deployment)
    for spec in (first, second):
        await runtime.start(spec, timeout_s=TIMEOUT_S)
    for name in (first.name, second.name, "no/name"):
        await runtime.rename(second.node_id, name)
    await runtime.rename("never-was", "x")
    assert inspected(second.node_id)["Name"] == f"/{second.name}"


async def test_a_stubborn_node_is_killed_after_its_grace(runtime: DockerRuntime, deployment: str) -> None:
    """A node that ignores SIGTERM is dead when stop returns, by SIGKILL."""
    spec = tiny_container("stubborn", deployment)
    await runtime.start(spec, timeout_s=TIMEOUT_S)
    await runtime.stop(spec.node_id, grace_s=0.2)
    assert (await runtime.status(spec.node_id)).liveness is Liveness.DEAD
    assert inspected(spec.node_id)["State"]["ExitCode"] == (await runtime.status(spec.node_id)).exit_status == 137


async def test_a_node_that_is_asked_ends_in_order(runtime: DockerRuntime, deployment: str) -> None:
    """A node that heeds SIGTERM ends with status 0."""
    spec = tiny_container(deployment=deployment)
    await runtime.start(spec, timeout_s=TIMEOUT_S)
    await runtime.stop(spec.node_id, grace_s=TIMEOUT_S)
    assert inspected(spec.node_id)["State"]["ExitCode"] == (await runtime.status(spec.node_id)).exit_status == 0


async def test_a_paused_node_is_alive_and_can_be_stopped(runtime: DockerRuntime, deployment: str) -> None:
    """A paused node is alive; it is stopped and removed all the same."""
    spec = tiny_container(deployment=deployment)
    await runtime.start(spec, timeout_s=TIMEOUT_S)
    docker("pause", spec.name)
    assert (await runtime.status(spec.node_id)).liveness is Liveness.ALIVE
    await runtime.stop(spec.node_id, grace_s=1.0)
    assert (await runtime.status(spec.node_id)).liveness is Liveness.DEAD


async def test_a_created_container_is_dead(runtime: DockerRuntime, deployment: str) -> None:
    """A container that was created and never started is dead and listed, and can be removed."""
    label = ("--label", f"kato.deployment={deployment}", "--label", "kato.node=abc")
    docker("create", *label, tiny_container(deployment=deployment).image or "")
    assert (await runtime.status("abc")).liveness is Liveness.DEAD
    assert [status.node_id for status in await runtime.list()] == ["abc"]
    await runtime.remove("abc")
    assert await runtime.list() == []


async def test_a_removed_node_takes_its_volumes_along(runtime: DockerRuntime, deployment: str) -> None:
    """The anonymous volumes of a removed node are gone too."""
    before = set(docker("volume", "ls", "--quiet").split())
    label = ("--label", f"kato.deployment={deployment}", "--label", "kato.node=abc")
    docker("create", *label, "--volume", "/data", tiny_container(deployment=deployment).image or "")
    (made,) = set(docker("volume", "ls", "--quiet").split()) - before
    await runtime.remove("abc")
    assert made not in docker("volume", "ls", "--quiet").split()


async def test_another_deployments_label_makes_no_node_of_ours(runtime: DockerRuntime, deployment: str) -> None:
    """A container of another deployment that has our node's label is not our node: that one is dead."""
    image = tiny_container(deployment=deployment).image or ""
    with container("--label", "kato.deployment=theirs", "--label", f"kato.node={deployment}", image=image):
        assert (await runtime.status(deployment)).liveness is Liveness.DEAD
        with pytest.raises(ContainerError, match="theirs"):
            await runtime.remove(deployment)


async def test_a_node_that_ends_at_once_says_why(runtime: DockerRuntime, deployment: str) -> None:
    """The error of a failed start has the exit status and ends with what the node logged."""
    with pytest.raises(StartFailed, match=r"status 3(.|\n)*exit is not a way to live"):
        await runtime.start(tiny_container("exit", deployment), timeout_s=TIMEOUT_S)
    assert await runtime.list() == []


async def test_an_unready_node_is_told_from_a_silent_one(runtime: DockerRuntime, deployment: str) -> None:
    """The error of a start that took too long says what the health check met last, and what the node logged."""
    with pytest.raises(StartTimeout, match=r"status 503(.|\n)*begins"):
        await runtime.start(tiny_container("unready", deployment), timeout_s=5.0)
    assert await runtime.list() == []


async def test_a_node_that_has_too_little_memory_says_so(runtime: DockerRuntime, deployment: str) -> None:
    """A node that its memory limit kills fails its start as exhausted memory, and leaves nothing."""
    spec = tiny_container("hungry", deployment)
    small = NodeSpec(
        node_id=spec.node_id,
        deployment=deployment,
        image=spec.image,
        env=spec.env,
        created_at_s=1.0,
        memory_max_bytes=16 * MIB,
    )
    with pytest.raises(ResourcesExhausted, match="out of memory"):
        await runtime.start(small, timeout_s=TIMEOUT_S)
    assert await runtime.list() == []


async def test_another_deployments_spec_is_not_started(runtime: DockerRuntime) -> None:
    """A runtime refuses to start a node for a deployment that is not its own."""
    with pytest.raises(ValueError, match="theirs"):
        await runtime.start(tiny_container(deployment="theirs"), timeout_s=TIMEOUT_S)


async def test_two_runtimes_at_once_make_one_network(deployment: str) -> None:
    """Runtimes of one deployment that open at the same time are on one network; the last to close removes it."""
    runtimes = [docker_runtime(deployment) for _ in range(4)]
    await asyncio.gather(*(each.open() for each in runtimes))
    specs = [tiny_container(deployment=deployment) for _ in range(2)]
    await asyncio.gather(*(each.start(spec, timeout_s=TIMEOUT_S) for each, spec in zip(runtimes, specs, strict=False)))
    used = {next(iter(inspected(spec.node_id)["NetworkSettings"]["Networks"].values()))["NetworkID"] for spec in specs}
    assert len(used) == 1
    for spec in specs:
        await runtimes[0].remove(spec.node_id)
    for each in runtimes:
        await each.close()

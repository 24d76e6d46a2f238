"""What a runtime makes of an engine that is down, slow, full, restarting, or loses its answers: on a real one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from container_manager.errors import (
    ContainerError,
    ImageMissing,
    NameTaken,
    ResourcesExhausted,
    RuntimeUnavailable,
    StartFailed,
)
from container_manager.runtimes.docker import DockerRuntime
from container_manager.spec import Liveness, NodeSpec
from tests.dockers import (
    NOTHING,
    Detour,
    clean_up,
    docker_runtime,
    has_made_containers,
    left_by,
    new_deployment,
    tiny_container,
)
from tests.engine import docker
from tests.integration.containers.docker_fixtures import deployment, detoured, engine, runtime
from tests.processes import descriptors, until

__all__ = ["deployment", "detoured", "engine", "runtime"]

pytestmark = pytest.mark.docker

TIMEOUT_S = 60.0
THREADS = 12  # four to start, four to end, four to ask
CREATE, START = "/containers/create", "/start"


def containers_of(deployment: str) -> frozenset[str]:
    """Return the ids of a deployment's containers, whatever their state."""
    return left_by(deployment).containers


async def test_a_missing_image_is_not_pulled(runtime: DockerRuntime, deployment: str) -> None:
    """A node of an image that the engine does not have fails its start, in words that say what to do."""
    spec = NodeSpec(node_id="abc", deployment=deployment, image="kato-test-nowhere:1", env={}, created_at_s=1.0)
    with pytest.raises(ImageMissing, match="make image"):
        await runtime.start(spec, timeout_s=TIMEOUT_S)
    assert containers_of(deployment) == frozenset()


async def test_a_name_that_somebody_else_has_is_taken(runtime: DockerRuntime, deployment: str) -> None:
    """A container that is not ours but has the node's name fails the start, and is left alone."""
    spec = tiny_container(deployment=deployment)
    docker("create", "--name", spec.name, spec.image or "")
    try:
        with pytest.raises(NameTaken):
            await runtime.start(spec, timeout_s=TIMEOUT_S)
        assert docker("inspect", "--format", "{{.State.Status}}", spec.name) == "created"
    finally:
        docker("rm", spec.name)
    assert containers_of(deployment) == frozenset()


async def test_an_engine_that_is_down_is_an_error(deployment: str, tmp_path: Path) -> None:
    """Where nobody listens, opening fails at once, says so in plain words, and leaves nothing open."""
    runtime = DockerRuntime(deployment, engine_url=f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(RuntimeUnavailable, match="out of reach: No such file or directory"):
        await runtime.open()


async def test_no_permission_is_told_from_no_engine(deployment: str, tmp_path: Path) -> None:
    """A refused connection is named as such."""
    (tmp_path / "dead.sock").touch()
    runtime = DockerRuntime(deployment, engine_url=f"unix://{tmp_path}/dead.sock")
    with pytest.raises(RuntimeUnavailable, match="Connection refused"):
        await runtime.open()


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("failed to create shim: write /run/x: no space left on device", "the disk is full"),
        ("runc: fork/exec /proc/self/exe: cannot allocate memory", "out of memory"),
        ("could not find an available, non-overlapping IPv4 address pool among the defaults", "no addresses"),
        ("driver failed programming external connectivity: all ports are allocated", "no ports"),
        ("adding interface veth1 to bridge br-1 failed: exchange full", "no more nodes"),
    ],
)
@pytest.mark.parametrize("call", [CREATE, START])
async def test_an_engine_that_has_no_more_says_what_of(
    detoured: DockerRuntime, engine: Detour, deployment: str, call: str, words: str, meaning: str
) -> None:
    """An engine that is out of disk, memory, addresses or ports fails the start as such, and nothing is left."""
    engine.refuses = (call, words)
    with pytest.raises(ResourcesExhausted, match=meaning):
        await detoured.start(tiny_container(deployment=deployment), timeout_s=TIMEOUT_S)
    engine.refuses = None
    assert containers_of(deployment) == frozenset()


@pytest.mark.parametrize("words", ["layer does not exist", "no space left on device"])
async def test_an_engine_that_fails_is_not_an_engine_without_nodes(
    detoured: DockerRuntime, engine: Detour, deployment: str, words: str
) -> None:
    """While listings are answered with status 500, a node is unknown, and no list is given."""
    spec = tiny_container(deployment=deployment)
    await detoured.start(spec, timeout_s=TIMEOUT_S)
    engine.refuses = ("/containers/json", words)
    assert (await detoured.status(spec.node_id)).liveness is Liveness.UNKNOWN
    with pytest.raises(RuntimeUnavailable, match=words):
        await detoured.list()
    engine.refuses = None
    assert (await detoured.status(spec.node_id)).liveness is Liveness.ALIVE


async def test_a_node_is_stopped_when_the_engine_says_so(
    detoured: DockerRuntime, engine: Detour, deployment: str
) -> None:
    """While listings fail, a node that was told to end is not taken for dead; the stop goes on."""
    spec = tiny_container("stubborn", deployment)
    await detoured.start(spec, timeout_s=TIMEOUT_S)
    engine.holds = "/kill"
    stop = asyncio.create_task(detoured.stop(spec.node_id, grace_s=3.0))
    await asyncio.to_thread(engine.held.wait, TIMEOUT_S)
    engine.refuses = ("/containers/json", "layer does not exist")
    engine.release()
    done, _ = await asyncio.wait({stop}, timeout=1.0)
    engine.refuses = None
    assert not done
    await stop
    assert docker("inspect", "--format", "{{.State.ExitCode}}", spec.name) == "137"


@pytest.mark.parametrize("call", [CREATE, START])
async def test_a_lost_answer_leaves_nothing(
    detoured: DockerRuntime, engine: Detour, deployment: str, call: str
) -> None:
    """A create or a start that the engine did, and whose answer got lost, fails; what it made is removed."""
    engine.loses = call
    with pytest.raises(RuntimeUnavailable):
        await detoured.start(tiny_container(deployment=deployment), timeout_s=TIMEOUT_S)
    engine.loses = None
    assert containers_of(deployment) == frozenset()


async def test_a_slow_engine_is_unavailable(detoured: DockerRuntime, engine: Detour, deployment: str) -> None:
    """A create that is not answered in time fails; when the engine makes the container later, it is removed."""
    engine.holds = CREATE
    with pytest.raises(RuntimeUnavailable, match="no answer from the Docker engine within"):
        await detoured.start(tiny_container(deployment=deployment), timeout_s=1.0)
    engine.release()
    await until(lambda: has_made_containers(deployment), what="the container of a call that came late")
    await until(lambda: not containers_of(deployment), what="its removal")


@pytest.mark.parametrize("call", [CREATE, START])
async def test_a_start_that_is_cancelled_in_the_engine_leaves_nothing(
    detoured: DockerRuntime, engine: Detour, deployment: str, call: str
) -> None:
    """A start that is cancelled while the engine is at it waits for the engine, and undoes what it did."""
    engine.holds = call
    start = asyncio.create_task(detoured.start(tiny_container(deployment=deployment), timeout_s=TIMEOUT_S))
    await asyncio.to_thread(engine.held.wait, TIMEOUT_S)
    start.cancel()
    engine.release()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert has_made_containers(deployment)
    assert containers_of(deployment) == frozenset()


async def test_a_container_that_somebody_removes_fails_its_start(
    detoured: DockerRuntime, engine: Detour, deployment: str
) -> None:
    """A container that is removed by others before it runs fails its start as such: the engine is in reach."""
    engine.holds = START
    start = asyncio.create_task(detoured.start(tiny_container(deployment=deployment), timeout_s=TIMEOUT_S))
    await asyncio.to_thread(engine.held.wait, TIMEOUT_S)
    clean_up(deployment, networks=False)
    engine.release()
    with pytest.raises(StartFailed, match="No such container"):
        await start


async def test_slow_creates_hold_up_no_questions(detoured: DockerRuntime, engine: Detour, deployment: str) -> None:
    """While every thread that creates waits for the engine, listings are answered."""
    engine.holds = CREATE
    starts = [
        asyncio.create_task(detoured.start(tiny_container(deployment=deployment), timeout_s=TIMEOUT_S))
        for _ in range(8)
    ]
    await asyncio.to_thread(engine.held.wait, TIMEOUT_S)
    assert await detoured.list() == []
    engine.release()
    assert len({(await start).external for start in starts}) == 8


async def test_calls_that_were_never_answered_use_up_no_threads(
    detoured: DockerRuntime, engine: Detour, deployment: str
) -> None:
    """After more unanswered calls than there are threads, the next one is served."""
    engine.holds = CREATE
    specs = [tiny_container(deployment=deployment) for _ in range(6)]
    starts = (detoured.start(spec, timeout_s=0.5) for spec in specs)
    failures = await asyncio.gather(*starts, return_exceptions=True)
    assert {isinstance(failure, RuntimeUnavailable) for failure in failures} == {True}
    engine.holds = None
    with engine.cut():
        pass
    spec = tiny_container(deployment=deployment)
    assert (await detoured.start(spec, timeout_s=TIMEOUT_S)).liveness is Liveness.ALIVE


async def test_exits_are_heard_of_after_a_break(detoured: DockerRuntime, engine: Detour, deployment: str) -> None:
    """The end of a node while the engine was out of reach is told when it is in reach again."""
    spec = tiny_container(deployment=deployment)
    await detoured.start(spec, timeout_s=TIMEOUT_S)
    exits = detoured.exits()
    with engine.cut():
        docker("kill", spec.name)
    async with asyncio.timeout(TIMEOUT_S):
        assert await anext(exits) == spec.node_id


async def test_a_start_survives_nothing_and_leaves_nothing_when_the_engine_goes(
    detoured: DockerRuntime, engine: Detour, deployment: str
) -> None:
    """A start during which the engine goes out of reach fails as unavailable; its container goes once it is back."""
    start = asyncio.create_task(detoured.start(tiny_container("silent", deployment), timeout_s=3.0))
    await until(lambda: containers_of(deployment), what="the container")
    with engine.cut():
        with pytest.raises(RuntimeUnavailable):
            await start
        assert containers_of(deployment) != frozenset()
    await until(lambda: not containers_of(deployment), what="its removal")


async def test_a_removed_network_is_made_again(runtime: DockerRuntime, deployment: str) -> None:
    """A node starts although somebody removed the network that no node was on."""
    docker("network", "rm", f"kato-{deployment}")
    assert (await runtime.start(tiny_container(deployment=deployment), timeout_s=TIMEOUT_S)).external is not None


async def test_a_network_that_was_given_is_used_as_it_is(deployment: str) -> None:
    """A network named by the settings is neither made nor removed; one that is not there is an error that says so."""
    network = new_deployment()
    with pytest.raises(RuntimeUnavailable, match="NODE_NETWORK"):
        await docker_runtime(deployment, network=network).open()
    docker("network", "create", network)
    try:
        runtime = docker_runtime(deployment, network=network)
        await runtime.open()
        spec = tiny_container(deployment=deployment)
        await runtime.start(spec, timeout_s=TIMEOUT_S)
        assert network in docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", spec.name)
        await runtime.remove(spec.node_id)
        await runtime.close()
        assert docker("network", "ls", "--quiet", "--filter", f"name={network}")
    finally:
        docker("network", "rm", network)


async def test_a_strangers_network_is_not_taken(deployment: str) -> None:
    """A network that happens to have the deployment's name but not its label is not used, nor removed."""
    docker("network", "create", f"kato-{deployment}")
    try:
        with pytest.raises(RuntimeUnavailable, match="not this deployment's"):
            await docker_runtime(deployment).open()
    finally:
        docker("network", "rm", f"kato-{deployment}")


async def test_a_runtime_that_is_closed_leaves_nodes_and_network(deployment: str) -> None:
    """Closing removes neither a node nor the network that it is on; the next closing without nodes removes that too."""
    former = docker_runtime(deployment)
    await former.open()
    spec = tiny_container(deployment=deployment)
    await former.start(spec, timeout_s=TIMEOUT_S)
    await former.close()
    assert len(left_by(deployment).networks) == 1
    runtime = docker_runtime(deployment)
    await runtime.open()
    await runtime.remove(spec.node_id)
    await runtime.close(leave_nodes=True)
    assert len(left_by(deployment).networks) == 1
    await runtime.open()
    await runtime.close()
    assert left_by(deployment) == NOTHING


async def test_work_leaves_no_descriptor(runtime: DockerRuntime, deployment: str) -> None:
    """Starts, failures, removals and listings open no more than one connection for each thread."""
    before = descriptors()
    for _ in range(3):
        for behaviour in ("", "exit"):
            try:
                status = await runtime.start(tiny_container(behaviour, deployment), timeout_s=TIMEOUT_S)
                await runtime.remove(status.node_id)
            except ContainerError:
                continue
    assert len(descriptors() - before) <= THREADS

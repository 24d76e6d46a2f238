"""`KatoContainerManager` and the choice of a runtime, on a real Docker engine with the platform's image."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from container_manager.errors import ImageMissing, StartFailed
from container_manager.labels import node_id_for
from container_manager.manager import (
    CONTAINER_CPUS_MAX,
    CONTAINER_MEMORY_MAX_BYTES,
    KatoContainerManager,
    ProcessorInfo,
    choose_runtime,
)
from tests.dockers import new_deployment
from tests.engine import IMAGE, LABEL, docker
from tests.mongo import mongo_in_container
from tests.processes import PATIENCE_S, descriptors

pytestmark = pytest.mark.docker


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A network with a MongoDB on it, told by the environment; no thread and no descriptor of ours is left."""
    threads, open_before = set(threading.enumerate()), descriptors()
    network = new_deployment()
    docker("network", "create", "--label", LABEL, network)
    try:
        with mongo_in_container(network) as url:
            for name, value in {
                "RUNTIME": "auto",
                "NODE_NETWORK": network,
                "NODE_IMAGE": IMAGE,
                "MONGO_URL": url,
            }.items():
                monkeypatch.setenv(name, value)
            monkeypatch.setenv("KATO_HOME", str(tmp_path))
            yield
    finally:
        docker("network", "rm", network)
    assert set(threading.enumerate()) == threads
    assert descriptors() == open_before


def call(info: ProcessorInfo, path: str, body: object = None) -> dict[str, object]:
    """GET a path of a processor, or POST a body to it, and return its JSON."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(info["external_url"] + path, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        return dict(json.loads(reply.read()))


def test_a_processor_in_a_container_keeps_its_memory(shared: None) -> None:
    """With engine, image and MongoDB there, a processor is a container named for people; removed, its memory stays."""
    with KatoContainerManager() as manager:
        info = manager.create_processor("user-123", "session-456", {"max_pattern_length": 10})
        node_id = node_id_for(info["processor_id"])
        labelled = ("ps", "--all", "--filter", f"label=kato.node={node_id}", "--format", "{{.Names}}")
        assert docker(*labelled) == info["container_name"]
        assert manager.create_processor("user-123", "session-456", {"max_pattern_length": 10}) == info
        for symbol in "ab":
            call(info, "/observe", {"strings": [symbol]})
        call(info, "/learn", {})
        manager.remove_processor(info["processor_id"])
        assert docker(*labelled) == ""
        again = manager.create_processor("user-123", "session-456", {"max_pattern_length": 10})
        assert call(again, "/status")["patterns"] == 1


def test_the_same_processor_is_one_container(shared: None) -> None:
    """Threads that create the same processor at the same time get the same container, limited as a gateway's nodes."""
    with KatoContainerManager() as manager, ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(manager.create_processor, "u", "s") for _ in range(4)]
        infos = [call.result() for call in calls]
        assert infos == [infos[0]] * 4
        limits = docker(
            "inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}", infos[0]["container_name"]
        )
    assert limits == f"{CONTAINER_MEMORY_MAX_BYTES} {int(CONTAINER_CPUS_MAX * 1e9)}"


def test_a_node_in_a_container_names_the_value_that_it_refuses(shared: None) -> None:
    """A config value out of its range fails the creation with the node's own line about it."""
    with KatoContainerManager() as manager, pytest.raises(StartFailed, match="PERSISTENCE"):
        manager.create_processor(config={"persistence": 1000})


async def test_without_the_image_nodes_are_processes(tmp_path: Path) -> None:
    """Without the image the choice is processes and says which is missing; asked for Docker, it refuses."""
    choose = partial(
        choose_runtime, home=tmp_path, deployment="ours", image="kato-test-nowhere:1", mongo_url="mongodb://db"
    )
    choice = await choose(wanted="auto")
    assert choice.runtime.name == "process"
    assert "kato-test-nowhere:1" in choice.reason
    with pytest.raises(ImageMissing, match="make image"):
        await choose(wanted="docker")


async def test_with_everything_there_nodes_are_containers(tmp_path: Path) -> None:
    """With engine, image and MONGO_URL the choice is Docker, and the reason names all three."""
    choice = await choose_runtime(
        wanted="auto", home=tmp_path, deployment="ours", image=IMAGE, mongo_url="mongodb://db"
    )
    assert choice.runtime.name == "docker"
    assert IMAGE in choice.reason
    assert "MONGO_URL" in choice.reason

"""`KatoContainerManager`, over real processes and over the fake."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from container_manager.errors import NameTaken, RuntimeUnavailable, StartFailed, StartTimeout
from container_manager.manager import (
    CONFIG_NAMES,
    DEPLOYMENT,
    ConfigValue,
    KatoContainerManager,
    ProcessorInfo,
    choose_runtime,
    settings_of,
)
from container_manager.runtimes.memory import MemoryEngine, MemoryRuntime
from container_manager.runtimes.process import ProcessRuntime
from tests.processes import NODES, PATIENCE_S, TINY, processes_of


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A KATO_HOME; fails if one of its processes or one of our threads is left."""
    threads = set(threading.enumerate())
    home = tmp_path / "home"
    yield home
    give_up_at_s = time.monotonic() + PATIENCE_S
    while processes_of(home):
        assert time.monotonic() < give_up_at_s, "a process was left"
    assert set(threading.enumerate()) == threads


def manager_of(home: Path, *, entry: str = TINY, timeout_s: float = PATIENCE_S) -> KatoContainerManager:
    """Return a manager of tiny nodes."""
    runtime = ProcessRuntime(home, DEPLOYMENT, entry=entry, path=[NODES], linger_s=0.2)
    return KatoContainerManager(home=home, runtime=runtime, timeout_s=timeout_s)


def facts_of(info: ProcessorInfo) -> dict[str, str]:
    """Return the environment of a tiny node."""
    with urllib.request.urlopen(info["external_url"] + "/facts", timeout=PATIENCE_S) as reply:
        return cast("dict[str, str]", json.loads(reply.read())["environment"])


def test_a_processor_is_created_and_removed(place: Path) -> None:
    """A created processor answers where the reply says, under a name that tells whose it is; removed, it is gone."""
    with manager_of(place) as manager:
        before_s = int(time.time())
        info = manager.create_processor(user_id="user-123", session_id="session-456")
        assert set(info) == {"processor_id", "container_name", "port", "internal_url", "external_url"}
        named = re.fullmatch(r"kato-user-123-session-456-(\d+)", info["container_name"])
        assert named is not None
        assert before_s <= int(named[1]) <= time.time()
        assert info["external_url"] == info["internal_url"] == f"http://127.0.0.1:{info['port']}"
        assert facts_of(info)["PROCESSOR_ID"] == info["processor_id"]
        manager.remove_processor(info["processor_id"])
        with pytest.raises(OSError, match="refused"):
            facts_of(info)
        manager.remove_processor(info["processor_id"])


def test_the_node_gets_its_config_as_settings(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Config values, the home and the storage settings reach the node; what else is in our environment does not."""
    monkeypatch.setenv("MONGO_URL", "mongodb://h/?replicaSet=r")
    monkeypatch.setenv("OURS_ALONE", "1")
    with manager_of(place) as manager:
        seen = facts_of(manager.create_processor(config={"max_pattern_length": 10, "sort_symbols": False}))
    assert (seen["MAX_PATTERN_LENGTH"], seen["SORT_SYMBOLS"]) == ("10", "false")
    assert (seen["KATO_HOME"], seen["MONGO_URL"]) == (str(place), "mongodb://h/?replicaSet=r")
    assert "OURS_ALONE" not in seen


def test_leaving_the_block_removes_what_it_created(place: Path) -> None:
    """A manager used as a context manager leaves no node of its own behind."""
    with manager_of(place) as manager:
        manager.create_processor()
    assert list((place / "run").iterdir()) == []


def test_processors_outlive_a_closed_manager(place: Path) -> None:
    """A closed manager's processor runs on; another manager finds it running and removes it."""
    manager = manager_of(place)
    info = manager.create_processor(user_id="u", session_id="s")
    manager.close()
    manager.close()
    with manager_of(place) as other:
        assert other.create_processor(user_id="u", session_id="s") == info
        other.remove_processor(info["processor_id"])


def test_two_managers_work_side_by_side(place: Path) -> None:
    """Two managers of one home each create and remove processors, also each other's."""
    with manager_of(place) as one, manager_of(place) as two:
        first = one.create_processor(user_id="u", session_id="1")
        second = two.create_processor(user_id="u", session_id="2")
        assert first["processor_id"] != second["processor_id"]
        two.remove_processor(first["processor_id"])
        assert facts_of(second)["PROCESSOR_ID"] == second["processor_id"]


def test_the_same_processor_is_created_once(place: Path) -> None:
    """Threads that create the same processor at the same time all get the same node."""
    with manager_of(place) as manager, ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(manager.create_processor, "u", "s") for _ in range(4)]
        infos = [call.result() for call in calls]
    assert infos == [infos[0]] * 4


def test_a_dead_processor_is_created_anew(place: Path) -> None:
    """A processor whose node is dead gets another, with the same processor id."""
    runtime = MemoryRuntime(engine := MemoryEngine(), DEPLOYMENT)
    with KatoContainerManager(home=place, runtime=runtime) as manager:
        first = manager.create_processor("u", "s")
        engine.kill(next(iter(engine.nodes)))
        second = manager.create_processor("u", "s")
        assert first["processor_id"] == second["processor_id"]
        assert first["port"] != second["port"]


def test_other_settings_are_not_passed_over(place: Path) -> None:
    """Creating a running processor with another config is an error that says so."""
    with manager_of(place) as manager:
        manager.create_processor("u", "s")
        with pytest.raises(NameTaken, match="remove_processor"):
            manager.create_processor("u", "s", {"persistence": 7})


def test_a_node_that_refuses_its_settings_says_why(place: Path) -> None:
    """What a node says when it refuses to start is in the error."""
    with (
        manager_of(place, entry="tiny_node:refuse") as manager,
        pytest.raises(StartFailed, match="exit is not a way to live"),
    ):
        manager.create_processor()


def test_a_node_that_never_answers_is_given_up(place: Path) -> None:
    """A creation that takes too long raises, and leaves nothing."""
    with manager_of(place, entry="tiny_node:wait", timeout_s=0.5) as manager:
        with pytest.raises(StartTimeout):
            manager.create_processor()
        assert list((place / "run").iterdir()) == []


def test_an_unknown_config_name_is_an_error(place: Path) -> None:
    """A name that is no config value never becomes a setting."""
    runtime = MemoryRuntime(engine := MemoryEngine(), DEPLOYMENT)
    with KatoContainerManager(home=place, runtime=runtime) as manager:
        with pytest.raises(ValueError, match="'path'"):
            manager.create_processor(config={"path": "/tmp"})
        assert engine.nodes == {}


def test_a_closed_manager_says_so(place: Path) -> None:
    """A manager cannot be used after it was closed."""
    manager = KatoContainerManager(home=place, runtime=MemoryRuntime(MemoryEngine(), DEPLOYMENT))
    manager.close()
    with pytest.raises(RuntimeUnavailable, match="closed"):
        manager.create_processor()


def test_a_runtime_that_cannot_be_opened_is_an_error(place: Path) -> None:
    """A manager whose runtime is out of reach cannot be made, and leaves no thread."""
    engine = MemoryEngine()
    engine.knobs.is_out_of_reach = True
    with pytest.raises(RuntimeUnavailable):
        KatoContainerManager(home=place, runtime=MemoryRuntime(engine, DEPLOYMENT))


def test_in_doubt_no_second_node_is_started(place: Path) -> None:
    """While the runtime cannot tell whether the processor runs, creating it fails."""
    engine = MemoryEngine()
    with KatoContainerManager(home=place, runtime=MemoryRuntime(engine, DEPLOYMENT)) as manager:
        engine.knobs.is_out_of_reach = True
        with pytest.raises(RuntimeUnavailable):
            manager.create_processor("u", "s")
        engine.knobs.is_out_of_reach = False


async def test_without_mongodb_nodes_are_processes(tmp_path: Path) -> None:
    """Without MONGO_URL the choice is processes and says why; asked for Docker, it refuses in the same words."""
    choice = await choose_runtime(wanted="auto", home=tmp_path, deployment="ours")
    assert choice.runtime.name == "process"
    assert "MONGO_URL is not set" in choice.reason
    with pytest.raises(RuntimeUnavailable, match="MONGO_URL is not set"):
        await choose_runtime(wanted="docker", home=tmp_path, deployment="ours")


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:27017", "[::1]:27017", "u:p%40@127.1.2.3", "db:1,LOCALHOST:2"]
)
async def test_a_container_cannot_reach_our_loopback(tmp_path: Path, host: str) -> None:
    """A MONGO_URL on the loopback rules Docker out, whatever its form, and the reason names the setting that helps."""
    choice = await choose_runtime(
        wanted="auto", home=tmp_path, deployment="ours", mongo_url=f"mongodb://{host}/x?replicaSet=localhost"
    )
    assert choice.runtime.name == "process"
    assert "NODE_MONGO_URL" in choice.reason


async def test_without_an_engine_nodes_are_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an engine the choice is processes and says why; asked for Docker, it refuses in the same words."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    choose = partial(choose_runtime, home=tmp_path, deployment="ours", mongo_url="mongodb://db")
    choice = await choose(wanted="auto")
    assert choice.runtime.name == "process"
    assert "out of reach: No such file or directory" in choice.reason
    with pytest.raises(RuntimeUnavailable, match="out of reach"):
        await choose(wanted="docker")


async def test_processes_can_be_asked_for(tmp_path: Path) -> None:
    """RUNTIME=process looks for nothing else."""
    choice = await choose_runtime(wanted="process", home=tmp_path, deployment="ours", mongo_url="mongodb://db")
    assert (choice.runtime.name, choice.reason) == ("process", "asked for")


def test_an_unknown_runtime_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A RUNTIME that does not exist makes no manager, and leaves no thread."""
    monkeypatch.setenv("RUNTIME", "podman")
    with pytest.raises(ValueError, match="podman"):
        KatoContainerManager(home=place)


def call(info: ProcessorInfo, path: str, body: object = None) -> dict[str, object]:
    """GET a path of a processor, or POST a body to it, and return its JSON."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(info["internal_url"] + path, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        return dict(json.loads(reply.read()))


def test_a_real_processor_keeps_its_memory(place: Path) -> None:
    """A processor takes its config, learns, and, removed and created again, still knows what it learned."""
    config: dict[str, ConfigValue] = {"max_pattern_length": 10, "recall_threshold": 0.25, "vector_distance_max": None}
    with KatoContainerManager(home=place) as manager:
        info = manager.create_processor("user-123", "session-456", config)
        genes = call(info, "/genes")["genes"]
        assert isinstance(genes, dict)
        assert config.items() <= genes.items()
        for symbol in "ab":
            call(info, "/observe", {"strings": [symbol]})
        call(info, "/learn", {})
        manager.remove_processor(info["processor_id"])
        info = manager.create_processor("user-123", "session-456", config)
        assert call(info, "/status")["patterns"] == 1


def test_a_real_node_names_the_value_that_it_refuses(place: Path) -> None:
    """A config value out of its range fails the creation with the node's own line about it."""
    with KatoContainerManager(home=place) as manager, pytest.raises(StartFailed, match="PERSISTENCE"):
        manager.create_processor(config={"persistence": 1000})


def test_config_values_become_text() -> None:
    """Config values are written as settings are read: decimals, true and false, nothing for None."""
    config: dict[str, ConfigValue] = {
        "persistence": 7,
        "recall_threshold": 1e-5,
        "sort_symbols": True,
        "stm_mode": "ROLLING",
        "vector_distance_max": None,
    }
    assert settings_of(config) == {
        "PERSISTENCE": "7",
        "RECALL_THRESHOLD": "0.00001",
        "SORT_SYMBOLS": "true",
        "STM_MODE": "ROLLING",
        "VECTOR_DISTANCE_MAX": "",
    }


def test_the_config_names_are_the_nodes() -> None:
    """The manager knows the very config names that the node does."""
    from kato_node.domain.config import DEFAULT

    assert set(DEFAULT.as_dict()) == CONFIG_NAMES

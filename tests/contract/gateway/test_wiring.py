"""What the gateway gives its nodes: what each kind needs, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from container_manager.runtime import Runtime
from container_manager.runtimes.docker import DockerRuntime
from container_manager.runtimes.process import ProcessRuntime
from container_manager.spec import NodeSpec
from kato_gateway.settings import from_environment
from kato_gateway.wiring import node_specs, policy_of
from kato_node import settings as node_settings
from kato_node.wire.tokens import node_secret

SECRET = "the-secret-of-this-deployment"
KEYS = {"API_KEYS": "ann:a-key-of-sixteen-characters"}
MONGO = {"MONGO_URL": "mongodb://ann:hush@db/?replicaSet=rs", "MONGO_DATABASE": "other"}


def spec(runtime: Runtime, node_id: str = "n-1", **environment: str) -> NodeSpec:
    """Return what a gateway with these settings starts on the runtime."""
    settings = from_environment({"KATO_HOME": "/home/of/kato", **environment})
    return node_specs(settings, runtime=runtime, deployment="d-1", secret=SECRET)(node_id, 1.0)


@pytest.fixture
def processes(tmp_path: Path) -> Runtime:
    """A runtime of processes, not opened."""
    return ProcessRuntime(tmp_path, "d-1")


@pytest.fixture
def containers() -> Runtime:
    """A runtime of containers, not opened."""
    return DockerRuntime("d-1")


def test_a_process_stores_where_its_gateway_does(processes: Runtime) -> None:
    """A process has the gateway's folder, or MongoDB at the gateway's address; it asks for tokens if there are keys."""
    on_files = spec(processes).env
    assert on_files["KATO_HOME"] == "/home/of/kato"
    assert "MONGO_URL" not in on_files
    assert "REQUIRE_TOKEN" not in on_files
    on_mongo = spec(processes, **MONGO, **KEYS, NODE_MONGO_URL="mongodb://from-containers").env
    assert (on_mongo["MONGO_URL"], on_mongo["MONGO_DATABASE"]) == (MONGO["MONGO_URL"], "other")
    assert on_mongo["REQUIRE_TOKEN"] == "true"


def test_a_process_has_no_limits_that_were_not_asked_for(processes: Runtime) -> None:
    """What is not enforced is not promised."""
    made = spec(processes)
    assert (made.image, made.memory_max_bytes, made.cpus_max) == (None, None, None)


def test_a_container_gets_all_that_it_needs(containers: Runtime) -> None:
    """It has an image and limits, MongoDB at the address for containers, and asks for tokens, keys or not."""
    made = spec(containers, **MONGO)
    assert (made.image, made.memory_max_bytes, made.cpus_max) == (from_environment({}).node_image, 512 * 2**20, 1.0)
    assert (made.env["MONGO_URL"], made.env["REQUIRE_TOKEN"]) == (MONGO["MONGO_URL"], "true")
    assert "KATO_HOME" not in made.env
    other = spec(
        containers,
        **MONGO,
        NODE_MONGO_URL="mongodb://from-containers",
        NODE_IMAGE="kato:mine",
        NODE_MEMORY_MAX="1g",
        NODE_CPUS_MAX="0.5",
    )
    assert (other.image, other.memory_max_bytes, other.cpus_max) == ("kato:mine", 2**30, 0.5)
    assert other.env["MONGO_URL"] == "mongodb://from-containers"


def test_a_container_is_admitted_as_what_it_takes(processes: Runtime, containers: Runtime) -> None:
    """A process shares most of its memory with the fork server, a container with nobody: fewer of them fit in."""
    settings = from_environment({"WARM_POOL_SIZE": "7", "IDLE_TIMEOUT_S": "8", "SESSION_TTL_S": "9"})
    few, many = (policy_of(settings, runtime=runtime) for runtime in (containers, processes))
    assert few.node_bytes > many.node_bytes > 0
    for policy in (few, many):
        assert (policy.warm_pool_size, policy.idle_timeout_s, policy.session_ttl_s) == (7, 8.0, 9.0)


@pytest.mark.parametrize("kind", ["processes", "containers"])
def test_every_node_has_a_secret_of_its_own(kind: str, request: pytest.FixtureRequest) -> None:
    """Nodes differ in id and secret alone, and so are interchangeable; none is given the deployment's secret."""
    runtime: Runtime = request.getfixturevalue(kind)
    one, other = (spec(runtime, node_id, **MONGO, **KEYS) for node_id in ("n-1", "n-2"))
    assert one.env["NODE_SECRET"] == node_secret(SECRET, "n-1") != other.env["NODE_SECRET"]
    assert {name for name in one.env if one.env[name] != other.env[name]} == {"NODE_ID", "NODE_SECRET"}
    assert one.spec_hash == other.spec_hash != spec(runtime, **MONGO, **KEYS, STM_MODE="ROLLING").spec_hash
    assert SECRET not in str(one.env)
    assert KEYS["API_KEYS"].partition(":")[2] not in str(one.env)
    assert node_settings.from_environment(one.env).node_secret == one.env["NODE_SECRET"]

"""The Docker engine is restarted, in order or not, under a gateway and its sessions: nobody notices for long."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.dockerd import OwnEngine, own_engine
from tests.e2e.gateway_process import Gateway, eventually, gateway
from tests.engine import IMAGE
from tests.mongo import StandIn

pytestmark = pytest.mark.docker

SESSIONS = ("ann", "bob")
POOL_SIZE = 1


@pytest.fixture(scope="module")
def engine_and_mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OwnEngine, str]]:
    """An engine that is not running, and the URL of a MongoDB that its containers reach."""
    with (
        own_engine() as (engine, address),
        StandIn(tmp_path_factory.mktemp("mongo"), host=address) as server,
    ):
        yield engine, server.url


def containers(engine: OwnEngine, *options: str) -> dict[str, str]:
    """Return the containers that run, by node."""
    lines = engine.docker("ps", "--no-trunc", "--format", '{{.Label "kato.node"}} {{.ID}}', *options).splitlines()
    return {node: container for node, container in map(str.split, lines) if node}


def observed(running: Gateway, session: str, event: str) -> httpx.Response:
    """Observe an event, the same call each time."""
    return running.call("POST", f"/sessions/{session}/observe", {"strings": [event]}, idempotency_key=event)


def is_observed(running: Gateway, session: str, event: str) -> bool:
    """Observe an event, the same call each time; whether it is acknowledged."""
    return observed(running, session, event).is_success


def is_at_rest(running: Gateway, engine: OwnEngine) -> bool:
    """Whether each session has one node, the pool is full, and these are the containers that there are."""
    nodes = running.ask("GET", "/nodes")["nodes"]
    bound = sorted(node["processor_id"] for node in nodes if node["state"] == "bound")
    ids = {node["node_id"] for node in nodes}
    is_full = len(nodes) == len(SESSIONS) + POOL_SIZE
    return is_full and bound == sorted(SESSIONS) and ids == set(containers(engine, "--all"))


@pytest.mark.parametrize("ends", ["in order", "killed"])
@pytest.mark.parametrize("live_restore", [False, True], ids=["plain", "live-restore"])
def test_sessions_outlive_a_restart_of_the_engine(
    engine_and_mongo: tuple[OwnEngine, str], tmp_path: Path, live_restore: bool, ends: str
) -> None:
    """While the engine is away calls are answered or refused, not failed; once it is back each session goes on with all
    that was acknowledged, once. With live-restore by the very same containers: none was stopped, none removed.
    """
    engine, url = engine_and_mongo
    engine.start(live_restore=live_restore)
    settings = {"RUNTIME": "docker", "NODE_IMAGE": IMAGE, "DOCKER_HOST": engine.url, "MONGO_URL": url}
    database = f"kato-{len(ends)}-{live_restore}"
    with gateway(tmp_path / "home", **settings, MONGO_DATABASE=database, WARM_POOL_SIZE=str(POOL_SIZE)) as running:
        for session in SESSIONS:
            running.ask("POST", "/sessions", {"session_id": session})
            assert is_observed(running, session, "before")
        eventually(lambda: is_at_rest(running, engine), "a full pool")
        before = containers(engine)
        (engine.stop if ends == "in order" else engine.kill)()
        for session in SESSIONS:
            refused = observed(running, session, "meanwhile")
            assert refused.is_success or (refused.status_code, "Retry-After" in refused.headers) == (503, True)
            assert running.ask("GET", f"/sessions/{session}")["status"] in {"active", "hibernated"}
        engine.start(live_restore=live_restore)
        for session in SESSIONS:
            eventually(partial(is_observed, running, session, "meanwhile"), "an answer to the same call")
            assert is_observed(running, session, "after")
            assert running.ask("GET", f"/sessions/{session}/stm")["stm"] == [["before"], ["meanwhile"], ["after"]]
        eventually(lambda: is_at_rest(running, engine), "one node for each session, and a full pool")
        if live_restore:
            assert containers(engine) == before
            starts = engine.docker("inspect", "--format", "{{.RestartCount}}", *before.values()).split()
            assert set(starts) == {"0"}
        for session in SESSIONS:
            running.ask("DELETE", f"/sessions/{session}")
    assert not containers(engine, "--all")
    engine.stop()

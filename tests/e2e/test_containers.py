"""The first session with nodes as containers: a real engine, MongoDB beside them, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from kato_node.wire.tokens import node_secret, token_key
from tests.dockers import own_network
from tests.e2e.gateway_process import PATIENCE_S, Gateway, Json, eventually, gateway, start
from tests.engine import IMAGE, docker
from tests.mongo import mongo_in_container

pytestmark = pytest.mark.docker

POOL_SIZE = 1
CROWD = 10


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with containers for nodes, MongoDB on their network; in the end nothing of it is left."""
    home = tmp_path_factory.mktemp("containers") / "home"
    with own_network() as network, mongo_in_container(network) as url:
        settings = {"RUNTIME": "docker", "NODE_IMAGE": IMAGE, "NODE_NETWORK": network, "MONGO_URL": url}
        with gateway(home, **settings, WARM_POOL_SIZE=str(POOL_SIZE), LOG_LEVEL="DEBUG") as running:
            yield running
            deployment = deployment_of(running)
        assert traces(deployment) == {"containers": [], "networks": [], "volumes": []}


def deployment_of(running: Gateway) -> str:
    """Return the installation's id."""
    return (running.home / "deployment").read_text()


def container_of(node_id: str) -> str:
    """Return the id of a node's container."""
    return docker("ps", "--all", "--quiet", "--filter", f"label=kato.node={node_id}")


def nodes(running: Gateway) -> list[Json]:
    """Return the gateway's nodes."""
    found: list[Json] = running.ask("GET", "/nodes")["nodes"]
    return found


def pool(running: Gateway) -> list[str]:
    """Return the ids of the nodes in the pool."""
    return [node["node_id"] for node in nodes(running) if node["state"] == "pool"]


def is_at_rest(running: Gateway) -> bool:
    """Whether the pool is full and nothing else is there, on record or on the engine."""
    known = [node["node_id"] for node in nodes(running)]
    return len(pool(running)) == POOL_SIZE == len(known) == len(traces(deployment_of(running))["containers"])


def traces(deployment: str) -> dict[str, list[str]]:
    """Return the ids of all that the engine has of the deployment."""
    by_label = ("--quiet", "--filter", f"label=kato.deployment={deployment}")
    return {
        "containers": sorted(docker("ps", "--all", *by_label).split()),
        "networks": sorted(docker("network", "ls", *by_label).split()),
        "volumes": sorted(docker("volume", "ls", *by_label).split()),
    }


def test_a_first_session_leaves_nothing_but_what_it_learned(running: Gateway) -> None:
    """Create, observe, learn, delete: then the pool is full, the engine has what it had, and the patterns are kept."""
    eventually(lambda: is_at_rest(running), "a full pool")
    before = traces(deployment_of(running))
    made = running.ask("POST", "/sessions", {"session_id": "first", "node_id": "p", "user_id": "ann"})
    assert made["start"] == "warm"
    for event in ("a", "b", "c"):
        running.ask("POST", "/sessions/first/observe", {"strings": [event]})
    running.ask("POST", "/sessions/first/learn")
    assert running.ask("DELETE", "/sessions/first")["status"] == "deleted"
    eventually(lambda: is_at_rest(running), "a full pool and nothing else")
    after = traces(deployment_of(running))
    assert {kind: len(ids) for kind, ids in after.items()} == {kind: len(ids) for kind, ids in before.items()}
    assert (after["networks"], after["volumes"]) == (before["networks"], before["volumes"])
    running.ask("POST", "/sessions", {"session_id": "second", "node_id": "p"})
    for event in ("a", "b"):
        running.ask("POST", "/sessions/second/observe", {"strings": [event]})
    [prediction] = running.ask("GET", "/sessions/second/predictions")["predictions"]
    assert prediction["future"] == [["c"]]
    running.ask("DELETE", "/sessions/second")


def test_a_crowd_of_containers(running: Gateway) -> None:
    """Sessions that live at once, more than the pool has, each in a container, answer their own STM; then all go."""
    names = [f"one-of-{CROWD}-{number}" for number in range(CROWD)]

    def lives(name: str) -> None:
        running.ask("POST", "/sessions", {"session_id": name})
        running.ask("POST", f"/sessions/{name}/observe", {"strings": [name]})

    with ThreadPoolExecutor(CROWD) as clients:
        list(clients.map(lives, names))
        for _ in range(3):
            stms = list(clients.map(lambda name: running.ask("GET", f"/sessions/{name}/stm")["stm"], names))
            assert stms == [[[name]] for name in names]
        bound = {node["processor_id"]: node["node_id"] for node in nodes(running) if node["state"] == "bound"}
        assert (set(bound), len(set(bound.values()))) == (set(names), CROWD)
        list(clients.map(lambda name: running.ask("DELETE", f"/sessions/{name}"), names))
    eventually(lambda: is_at_rest(running), "a full pool and nothing else")


def test_a_container_is_reached_directly_with_the_token(running: Gateway) -> None:
    """Its port on loopback answers the session's access_token, over HTTP and WebSocket, and nobody else."""
    session = running.ask("POST", "/sessions", {"session_id": "direct", "user_id": "ann"})
    running.ask("POST", "/sessions/direct/observe", {"strings": ["a"]})
    url, token = session["external_url"], session["access_token"]
    assert url.startswith("http://127.0.0.1:")
    assert (url, session["port"]) == (session["internal_url"], httpx.URL(url).port)
    assert httpx.get(f"{url}/health").status_code == 200
    for credential in ({}, {"Authorization": f"Bearer {token[:-1]}x"}):
        assert httpx.get(f"{url}/stm", headers=credential).status_code == 401
    assert httpx.get(f"{url}/stm", headers={"Authorization": f"Bearer {token}"}).json()["stm"] == [["a"]]
    socket = f"{url.replace('http', 'ws', 1)}/ws"
    with pytest.raises(InvalidStatus) as refused, connect(socket):
        pass
    assert refused.value.response.status_code == 401
    with connect(f"{socket}?access_token={token}") as direct, running.socket("/sessions/direct/ws") as forwarded:
        direct.send(json.dumps({"type": "observe", "payload": {"strings": ["b"]}}))
        assert json.loads(direct.recv(PATIENCE_S))["type"] == "observation_result"
        forwarded.send(json.dumps({"type": "get_stm"}))
        assert json.loads(forwarded.recv(PATIENCE_S))["data"]["stm"] == [["a"], ["b"]]
    running.ask("DELETE", "/sessions/direct")


def test_a_container_says_whose_it_is(running: Gateway) -> None:
    """Soon after its bind it has the name that the session's reply tells; in the pool, that of its id."""
    eventually(lambda: pool(running), "a full pool")
    [member] = pool(running)
    assert docker("inspect", "--format", "{{.Name}}", container_of(member)) == f"/kato-{member}"
    session = running.ask("POST", "/sessions", {"session_id": "of:ann", "user_id": "ann"})
    name = session["container_name"]
    assert name.startswith("kato-ann-of-ann-")
    [node] = [node for node in nodes(running) if node["processor_id"] == "of:ann"]
    assert (node["container_name"], node["runtime"]) == (name, "docker")
    container = container_of(node["node_id"])
    eventually(lambda: docker("inspect", "--format", "{{.Name}}", container) == f"/{name}", "the new name")
    running.ask("DELETE", "/sessions/of:ann")


def test_a_token_outlives_its_container(running: Gateway) -> None:
    """After docker kill of its node, a session goes on with all it had, and its token opens the next container."""
    session = running.ask("POST", "/sessions", {"session_id": "killed"})
    running.ask("POST", "/sessions/killed/observe", {"strings": ["a"]})
    docker("kill", container_of(running.ask("GET", "/nodes/killed")["node_id"]))
    running.ask("POST", "/sessions/killed/observe", {"strings": ["b"]})
    now = running.ask("GET", "/sessions/killed")
    assert now["access_token"] == session["access_token"]
    reply = httpx.get(f"{now['external_url']}/stm", headers={"Authorization": f"Bearer {session['access_token']}"})
    assert reply.json()["stm"] == [["a"], ["b"]]
    running.ask("DELETE", "/sessions/killed")


def test_a_killed_gateway_finds_its_containers_again(running: Gateway) -> None:
    """After kill -9 of the gateway its successor serves the sessions of before by the containers of before."""
    running.ask("POST", "/sessions", {"session_id": "kept"})
    running.ask("POST", "/sessions/kept/observe", {"strings": ["a"]})
    container = container_of(running.ask("GET", "/nodes/kept")["node_id"])
    eventually(lambda: pool(running), "a full pool")
    running.kill()
    running.start()
    assert running.ask("GET", "/sessions/kept/stm")["stm"] == [["a"]]
    assert container_of(running.ask("GET", "/nodes/kept")["node_id"]) == container
    running.ask("DELETE", "/sessions/kept")
    eventually(lambda: is_at_rest(running), "a full pool and nothing else")


def test_no_container_has_the_deployments_secret(running: Gateway) -> None:
    """What a container is given, for whoever may inspect it, opens that node alone; nothing is mounted, or logged."""
    eventually(lambda: pool(running), "a full pool")
    secret = (running.home / "secret").read_text()
    [facts] = json.loads(docker("inspect", container_of(pool(running)[0])))
    assert secret not in json.dumps(facts)
    assert facts["Mounts"] == []
    environment = dict(entry.split("=", 1) for entry in facts["Config"]["Env"])
    assert environment["REQUIRE_TOKEN"] == "true"
    opened = [environment["NODE_SECRET"], secret, token_key(secret, "first"), token_key(secret, "p")]
    assert opened[0] == node_secret(secret, environment["NODE_ID"])
    written = running.log + docker("logs", facts["Id"])
    assert '"level": "DEBUG"' in written
    assert not [word for word in opened if word in written]
    host = facts["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (512 * 2**20, 10**9)


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"NODE_IMAGE": "kato-test-no-such-image:0"}, "kato-test-no-such-image:0"), ({"DOCKER_HOST": "unix:///x"}, "/x")],
)
def test_what_docker_lacks_stops_the_start(tmp_path: Path, mongo_url: str, settings: dict[str, str], name: str) -> None:
    """An image or an engine that is not there is exit status 1 and one line."""
    reachable = {"MONGO_URL": mongo_url, "NODE_MONGO_URL": "mongodb://db.example", "MONGO_DATABASE": "kato-test-none"}
    process = start(tmp_path / "home", RUNTIME="docker", **reachable, **settings)
    process.communicate(timeout=PATIENCE_S)
    said = (tmp_path / "home.log").read_text().splitlines()
    assert process.returncode == 1
    assert [line for line in said if not line.startswith("{")] == [said[-1]]


def test_auto_says_what_it_chose(tmp_path: Path, mongo_url: str, mongo_database: str) -> None:
    """RUNTIME=auto says what nodes are and why, after the line that says where it serves, and in the log."""
    settings = {"MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database, "NODE_IMAGE": "kato-test-no-such-image:0"}
    with gateway(tmp_path / "home", **settings, NODE_MONGO_URL="mongodb://db.example") as running:
        assert running.process.stdout is not None
        said = running.process.stdout.readline()
        assert "processes" in said
        assert "kato-test-no-such-image:0" in said
        assert running.ask("GET", "/status")["runtime"] == "process"
    assert '"event": "runtime_chosen"' in running.log

"""Two gateways over one MongoDB, each with a home of its own: one pool, one node for each processor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.dockers import own_network
from tests.e2e.gateway_process import Gateway, Json, eventually, gateway
from tests.engine import IMAGE
from tests.mongo import StandIn, mongo_in_container

EACH = 8
Pair = tuple[Gateway, Gateway]


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Two gateways that serve together, with processes or containers for nodes."""
    if request.param == "process":
        with StandIn(tmp_path / "mongo") as server:
            yield from two(tmp_path, RUNTIME="process", MONGO_URL=server.url)
    else:
        with own_network() as network, mongo_in_container(network) as url:
            yield from two(tmp_path, RUNTIME="docker", NODE_IMAGE=IMAGE, NODE_NETWORK=network, MONGO_URL=url)


def two(directory: Path, **settings: str) -> Iterator[Pair]:
    """Run two gateways with these settings and one secret."""
    with gateway(directory / "one", **settings) as one:
        secret = str(one.home / "secret")
        with gateway(directory / "other", **settings, DEPLOYMENT_SECRET_FILE=secret) as other:
            yield one, other


def at_once(pair: Pair, bodies: list[Json]) -> list[Json]:
    """Create a session from each body, all at the same time, by the two in turn; return the replies."""
    with ThreadPoolExecutor(len(bodies)) as threads:
        made = [threads.submit(pair[n % 2].ask, "POST", "/sessions", body) for n, body in enumerate(bodies)]
        return [each.result() for each in made]


def bound(running: Gateway) -> dict[str, str]:
    """Return the nodes that are bound, as this gateway lists them: their ids by processor."""
    nodes = [node for node in running.ask("GET", "/nodes")["nodes"] if node["state"] == "bound"]
    assert len({node["processor_id"] for node in nodes}) == len(nodes)
    return {node["processor_id"]: node["node_id"] for node in nodes}


def test_a_burst_through_both_gives_distinct_nodes(pair: Pair) -> None:
    """Sessions that are created at once, half through each, have a node each; either gateway reaches all of them."""
    names = [f"s{n}" for n in range(2 * EACH)]
    at_once(pair, [{"session_id": name} for name in names])
    for n, name in enumerate(names):
        pair[n % 2].ask("POST", f"/sessions/{name}/observe", {"strings": [name]})
    for n, name in enumerate(names):
        assert pair[(n + 1) % 2].ask("GET", f"/sessions/{name}/stm")["stm"] == [[name]]
    for running in pair:
        nodes = bound(running)
        assert set(nodes) == set(names)
        assert len(set(nodes.values())) == len(names)
    for name in names:
        pair[0].ask("DELETE", f"/sessions/{name}")
    eventually(lambda: not bound(pair[1]), "the end of all of them, by either")


def test_one_processor_named_through_both_has_one_node(pair: Pair) -> None:
    """Sessions that name the same node_id at once, half through each, share one node, and what is learned there."""
    names = [f"s{n}" for n in range(EACH)]
    made = at_once(pair, [{"session_id": name, "node_id": "p"} for name in names])
    assert len({session["external_url"] for session in made}) == 1
    for n, name in enumerate(names):
        for event in ("a", "b"):
            pair[n % 2].ask("POST", f"/sessions/{name}/observe", {"strings": [event]})
        pair[n % 2].ask("POST", f"/sessions/{name}/learn")
    [name] = {pair[0].ask("GET", f"/sessions/{name}/patterns")["patterns"][0]["name"] for name in names}
    pattern = pair[1].ask("GET", f"/sessions/{names[0]}/pattern/{name}")["pattern"]
    assert pattern["frequency"] == EACH
    assert set(bound(pair[0])) == set(bound(pair[1])) == {"p"}

"""Each limit at its edge: so many pass, one more is refused with the limit's code, and nothing of it is applied."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from kato_gateway.domain.admission import NODE_BYTES, has_room
from kato_node.wire.strict_json import Json
from tests.contract.published.calls import code_of
from tests.contract.published.services import SECRET, Service

KIB, MIB = 2**10, 2**20
Body = dict[str, Any]


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    """Begin each test with an empty memory."""
    for name in {"node", "service"} & set(request.fixturenames):
        request.getfixturevalue(name).ask("POST", "/clear-all")


def length(service: Service) -> int:
    """Return how many events the STM has."""
    found: int = service.ask("GET", "/stm")["length"]
    return found


def refused(service: Service, path: str, body: Json) -> Body:
    """Return the error of a call that is refused; time and STM are as before."""
    before = service.ask("GET", "/cognition-data")["cognition_data"]
    reply = service.client.post(path, json=body)
    code_of(reply)
    assert service.ask("GET", "/cognition-data")["cognition_data"] == before
    error: Body = reply.json()["error"]
    return error


@pytest.mark.parametrize(
    ("field", "least", "more"),
    [
        ("strings", ["a"] * 10_000, ["a"] * 10_001),
        ("strings", ["é" * 32 * KIB], ["é" * 32 * KIB + "a"]),
        ("vectors", [[0.5] * 65_536], [[0.5] * 65_537]),
    ],
    ids=["10,000 symbols", "64 KiB of one symbol", "65,536 values"],
)
def test_an_observation_at_its_limits(node: Service, field: str, least: Json, more: Json) -> None:
    """So many symbols, bytes of a symbol, values of a vector are observed; one more is VALIDATION_ERROR."""
    assert node.ask("POST", "/observe", {field: least})["stm_length"] == 1
    error = refused(node, "/observe", {field: more})
    assert error["code"] == "VALIDATION_ERROR"
    assert error["details"]["errors"][0]["field"].startswith(field)
    sequence: Json = {"observations": [{"strings": ["b"]}, {field: more}]}
    assert refused(node, "/observe-sequence", sequence)["code"] == "VALIDATION_ERROR"


def test_a_sequence_and_the_events_of_the_stm_at_their_limits(node: Service) -> None:
    """10,000 observations are one sequence and 10,000 events one STM; one more of either is refused."""
    one: Json = {"strings": ["a"]}
    assert refused(node, "/observe-sequence", {"observations": [one] * 10_001})["code"] == "VALIDATION_ERROR"
    done = node.ask("POST", "/observe-sequence", {"observations": [one] * 10_000})
    assert done["final_stm_length"] == 10_000
    error = refused(node, "/observe", one)
    assert error["code"] == "MEMORY_TOO_LARGE"
    assert "learn" in error["message"]
    assert "clear-stm" in error["message"]
    assert node.ask("POST", "/observe", {})["stm_length"] == 10_000
    assert node.ask("POST", "/clear-stm")["message"] == "stm-cleared"
    assert node.ask("POST", "/observe", one)["stm_length"] == 1


def test_the_bytes_of_the_stm_at_their_limit(node: Service) -> None:
    """4 MiB of symbols (each 4 bytes at least) are one STM; a byte more is MEMORY_TOO_LARGE, naming the ways out."""
    symbol = "x" * 64 * KIB
    node.ask("POST", "/observe-sequence", {"observations": [{"strings": [symbol] * 16}] * 3})
    node.ask("POST", "/observe", {"strings": [*([symbol] * 15), symbol[4:]]})
    error = refused(node, "/observe", {"strings": ["xxxxx"]})
    assert error["code"] == "MEMORY_TOO_LARGE"
    assert (error["details"]["limit"], error["details"]["actual"]) == (4 * MIB, 4 * MIB + 1)
    assert "learn" in error["message"]
    assert "clear-stm" in error["message"]
    assert node.ask("POST", "/observe", {"strings": [""]})["stm_length"] == 5
    assert refused(node, "/observe", {"strings": [""]})["code"] == "MEMORY_TOO_LARGE"


def test_the_bytes_of_a_pattern_at_their_limit(node: Service) -> None:
    """What travels with an STM until it is learned may have 8 MiB; one byte more is MEMORY_TOO_LARGE."""
    node.ask("POST", "/observe", {"strings": ["a"], "metadata": {"k": "x" * 4 * MIB}})
    over = refused(node, "/observe", {"strings": ["b"], "metadata": {"k": "x" * 5 * MIB}})
    assert (over["code"], over["details"]["limit"]) == ("MEMORY_TOO_LARGE", 8 * MIB)
    fitting = 5 * MIB - (over["details"]["actual"] - 8 * MIB)
    error = refused(node, "/observe", {"strings": ["b"], "metadata": {"k": "x" * (fitting + 1)}})
    assert (error["code"], error["details"]["actual"]) == ("MEMORY_TOO_LARGE", 8 * MIB + 1)
    assert node.ask("POST", "/observe", {"strings": ["b"], "metadata": {"k": "x" * fitting}})["stm_length"] == 2
    node.ask("POST", "/clear-stm")


def test_a_body_at_its_limit(service: Service) -> None:
    """A body of 16 MiB is taken; one of a byte more is BODY_TOO_LARGE, whether its length was declared or not."""
    body = b'{"strings": ["a"]}'.ljust(16 * MIB)
    assert service.client.post("/observe", content=body).json()["stm_length"] == 1
    for content in (body + b" ", iter([body, b" "])):
        reply = service.client.post("/observe", content=content)
        assert code_of(reply) == "BODY_TOO_LARGE"
        assert reply.json()["error"]["details"] == {"body_bytes_max": 16 * MIB}
    assert length(service) == 1


def test_a_message_at_its_limit(service: Service) -> None:
    """A WebSocket's message of 1 MiB is taken; one of a byte more is BODY_TOO_LARGE, and the socket stays open."""
    message = '{"type": "observe", "payload": {"strings": ["a"]}}'.ljust(MIB)
    with service.socket() as socket:
        for text, kind in ((message, "observation_result"), (message + " ", "error"), (message, "observation_result")):
            socket.send(text)
            answer = json.loads(socket.recv(timeout=60))
            assert answer["type"] == kind
            assert kind != "error" or answer["data"]["code"] == "BODY_TOO_LARGE"
    assert length(service) == 2


def test_the_sessions_of_a_node_at_their_limit(node: Service) -> None:
    """A node holds 1,000 sessions; one more is CAPACITY_REACHED with Retry-After, and ending one makes room."""
    node.ask("POST", "/observe", {})
    first: int = node.ask("GET", "/status")["sessions"]

    def opened(number: int) -> httpx.Response:
        message = {"session_id": f"n{number}", "incarnation": "i"}
        return node.client.post("/control/sessions", json=message, headers={"X-Kato-Secret": SECRET})

    with ThreadPoolExecutor(8) as pool:
        assert all(reply.status_code == 200 for reply in pool.map(opened, range(1_000 - first)))
    reply = opened(1_000)
    assert code_of(reply) == "CAPACITY_REACHED"
    assert int(reply.headers["retry-after"]) >= 1
    assert node.ask("GET", "/status")["sessions"] == 1_000
    assert opened(0).json()["created"] is False
    node.client.delete("/control/sessions/n0?incarnation=i", headers={"X-Kato-Secret": SECRET}).raise_for_status()
    assert opened(1_000).status_code == 200
    for number in range(1_001):
        node.client.delete(f"/control/sessions/n{number}?incarnation=i", headers={"X-Kato-Secret": SECRET})


def test_the_live_nodes_at_their_limit() -> None:
    """Beside 899 nodes one more is admitted, beside 900 none."""
    assert has_room(899, nodes_max=900, available_bytes=None, node_bytes=NODE_BYTES)
    assert not has_room(900, nodes_max=900, available_bytes=None, node_bytes=NODE_BYTES)

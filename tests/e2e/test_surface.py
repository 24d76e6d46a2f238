"""The gateway's own surface over HTTP and WebSocket: lists, counts, configuration, nodes, figures, events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from tests.e2e.gateway_process import Gateway, Json, eventually, gateway

KEYS = {"API_KEYS": "ann:ann-secret-key-0001,bob:bob-secret-key-0002"}
ANN: Json = {"authorization": "Bearer ann-secret-key-0001"}
BOB: Json = {"authorization": "Bearer bob-secret-key-0002"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for the tests of this file."""
    with gateway(tmp_path_factory.mktemp("surface") / "home") as running:
        yield running


def hear(socket: ClientConnection, event: str, **ids: str) -> Json:
    """Return the next such event."""
    while True:
        message: Json = json.loads(socket.recv(timeout=30))
        data = message["data"]
        if data.get("event") == event and all(data[name] == value for name, value in ids.items()):
            return message


def answer(socket: ClientConnection) -> Json:
    """Return the next message that is no event: those come when they happen."""
    while True:
        message: Json = json.loads(socket.recv(timeout=30))
        if message["type"] != "event":
            return message


def test_sessions_are_listed_page_by_page(served: Gateway) -> None:
    """Every session of a user is on exactly one page, whatever the alias; a cursor that is none is refused."""
    names = [f"list-{number}" for number in range(5)]
    for name in names:
        served.ask("POST", "/sessions", {"session_id": name, "user_id": "lister"})
    for path in ("/sessions", "/v2/sessions"):
        listed: list[str] = []
        cursor = ""
        while True:
            page = served.ask("GET", f"{path}?user_id=lister&limit=2{cursor}")
            assert page["total"] == 5
            listed += [session["session_id"] for session in page["sessions"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert listed == names
    for bad in ("cursor=nonsense", "cursor=!", "limit=0", "limit=1001", "status=asleep"):
        assert served.call("GET", f"/sessions?{bad}").status_code == 422


def test_sessions_are_found_by_status_and_counted(served: Gateway) -> None:
    """An ended session leaves the count and the list of the living, and is listed as ended."""
    served.ask("POST", "/sessions", {"session_id": "counted", "user_id": "counter"})
    before = served.ask("GET", "/sessions/count")["active_session_count"]
    shown = served.ask("GET", "/sessions?user_id=counter&status=active")["sessions"]
    assert [session["session_id"] for session in shown] == ["counted"]
    served.ask("DELETE", "/sessions/counted")
    assert served.ask("GET", "/v2/sessions/count")["active_session_count"] == before - 1
    assert served.ask("GET", "/sessions?user_id=counter")["sessions"] == []
    assert served.ask("GET", "/sessions?user_id=counter&status=ended")["total"] == 1


def test_asking_whether_a_session_exists_slides_nothing(served: Gateway) -> None:
    """`exists` answers 200 for the living, the expired and the unknown, and never moves the expiry."""
    created = served.ask("POST", "/sessions", {"session_id": "asked", "ttl_seconds": 2})
    assert served.ask("GET", "/sessions/asked/exists") == {"exists": True, "expired": False, "session_id": "asked"}
    assert served.ask("GET", "/sessions/asked")["expires_at"] == created["expires_at"]
    eventually(lambda: served.ask("GET", "/session/asked/exists")["expired"], "the session's expiry")
    assert served.ask("GET", "/v2/sessions/nobody/exists") == {
        "exists": False,
        "expired": False,
        "session_id": "nobody",
    }


def test_a_configuration_is_changed_whole_or_not_at_all(served: Gateway) -> None:
    """POST config changes what its node then uses, waking it; a bad value changes nothing."""
    served.ask("POST", "/sessions", {"session_id": "configured", "config": {"persistence": 3}})
    served.ask("DELETE", "/nodes/configured")
    assert served.ask("GET", "/sessions/configured/config")["config"]["persistence"] == 3
    assert served.ask("GET", "/sessions/configured")["status"] == "hibernated"
    changed = served.ask("POST", "/sessions/configured/config", {"config": {"recall_threshold": 0.4}})
    assert (changed["config"]["recall_threshold"], changed["config"]["persistence"]) == (0.4, 3)
    assert served.ask("GET", "/sessions/configured/genes")["genes"] == changed["config"]
    bad = {"config": {"recall_threshold": 0.9, "persistence": 0}}
    refused = served.call("POST", "/session/configured/config", bad)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert served.ask("GET", "/v2/sessions/configured/config")["config"] == changed["config"]


def test_nodes_are_shown_and_stopped(served: Gateway) -> None:
    """A node is found by its own id or its processor's, with what it uses; stopped, its session sleeps and wakes."""
    served.ask("POST", "/sessions", {"session_id": "hosted"})
    served.ask("POST", "/sessions/hosted/observe", {"strings": ["a"]})
    node = served.ask("GET", "/nodes/hosted")
    assert served.ask("GET", f"/nodes/{node['node_id']}")["processor_id"] == "hosted"
    assert node["node_id"] in [each["node_id"] for each in served.ask("GET", "/nodes")["nodes"]]
    assert (node["state"], node["runtime"], node["sessions"]) == ("bound", "process", ["hosted"])
    assert node["memory_bytes"] > 2**20
    assert node["last_activity_at"] >= node["created_at"]
    assert served.ask("DELETE", f"/nodes/{node['node_id']}")["processor_id"] == "hosted"
    assert served.ask("GET", "/sessions/hosted")["status"] == "hibernated"
    assert served.call("GET", "/nodes/hosted").json()["error"]["code"] == "NODE_NOT_FOUND"
    assert served.ask("GET", "/sessions/hosted/stm")["stm"] == [["a"]]


def test_the_gateway_says_how_it_is(served: Gateway) -> None:
    """/ready names what it depends on; /metrics counts, as JSON or, for whoever prefers text, for Prometheus."""
    assert served.ask("GET", "/ready") == {
        "status": "ready",
        "dependencies": {"registry": "okay", "runtime": "okay"},
    }
    served.ask("POST", "/sessions", {"session_id": "metered"})
    figures = served.ask("GET", "/metrics")
    assert figures["sessions"]["active"] >= 1
    assert figures["events"]["session_created"] >= 1
    text = served.call("GET", "/metrics", accept="text/plain;version=0.0.4, */*;q=0.1")
    assert text.headers["content-type"].startswith("text/plain")
    assert 'kato_gateway_events_total{kind="session_created"}' in text.text


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/sessions/strict/extend?ttl=5", None, "ttl"),
        ("POST", "/session/strict/extend", {"ttl_seconds": 5}, "body"),
        ("GET", "/sessions?limti=5", None, "limti"),
        ("GET", "/nodes?user_id=a", None, "user_id"),
        ("DELETE", "/sessions/strict?prune=true", None, "prune"),
        ("POST", "/sessions/strict/learn?unique_id=x", None, "unique_id"),
        ("GET", "/sessions/strict/patterns?limti=5", None, "limti"),
        ("POST", "/sessions/strict/clear-stm", {"session_id": "other"}, "session_id"),
    ],
)
def test_nothing_sent_is_ignored(served: Gateway, method: str, path: str, body: Json | None, field: str) -> None:
    """A parameter or a body that a route does not know is refused by its name, and nothing is done."""
    before = served.ask("POST", "/sessions", {"session_id": "strict"})["expires_at"]
    error = served.call(method, path, body).json()["error"]
    assert error["code"] == "VALIDATION_ERROR"
    assert field in [each["field"] for each in error["details"]["errors"]]
    assert served.ask("GET", "/sessions/strict")["status"] == "active"
    assert served.ask("GET", "/sessions/strict")["expires_at"] >= before


def test_events_begin_with_what_there_is(served: Gateway) -> None:
    """WS /events sends a snapshot, then each event; it answers pings, and survives what it does not understand."""
    served.ask("POST", "/sessions", {"session_id": "seen"})
    with served.socket("/events") as socket:
        snapshot = json.loads(socket.recv(timeout=30))
        assert snapshot["type"] == "snapshot"
        assert {"session_id": "seen", "processor_id": "seen", "status": "active"} in snapshot["data"]["sessions"]
        assert "seen" in [node["processor_id"] for node in snapshot["data"]["nodes"]]
        served.ask("DELETE", "/sessions/seen")
        assert hear(socket, "session_ended", session_id="seen")["data"]["reason"] == "deleted"
        hear(socket, "node_ended", processor_id="seen")
        for message in ("nonsense", "[]", '{"type": "observe"}', '{"type": "ping", "id": 7}'):
            socket.send(message)
        answers = [answer(socket) for _ in range(4)]
        assert [each["type"] for each in answers] == ["error", "error", "error", "pong"]
        assert answers[-1] == {"type": "pong", "id": 7}


def test_owners_see_their_own(tmp_path: Path) -> None:
    """With keys, lists, counts, nodes and events tell an owner of nobody else's sessions; /ready asks for no key."""
    with gateway(tmp_path / "home", **KEYS) as served:
        with served.socket("/events", **BOB) as socket:
            assert json.loads(socket.recv(timeout=30))["data"]["sessions"] == []
            served.ask("POST", "/sessions", {"session_id": "anns"}, **ANN)
            served.ask("POST", "/sessions", {"session_id": "bobs"}, **BOB)
            assert hear(socket, "session_created")["data"]["session_id"] == "bobs"
        for key, name in ((ANN, "anns"), (BOB, "bobs")):
            assert [each["session_id"] for each in served.ask("GET", "/sessions", None, **key)["sessions"]] == [name]
            assert served.ask("GET", "/sessions/count", None, **key)["active_session_count"] == 1
            assert [node["processor_id"] for node in served.ask("GET", "/nodes", None, **key)["nodes"]] == [name]
        assert served.call("DELETE", "/nodes/anns", None, **BOB).status_code == 404
        assert served.call("GET", "/sessions/anns/config", None, **BOB).status_code == 404
        assert not served.ask("GET", "/sessions/anns/exists", None, **BOB)["exists"]
        assert served.ask("GET", "/ready")["status"] == "ready"
        assert served.call("GET", "/metrics").status_code == 401

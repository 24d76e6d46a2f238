"""The first session, end to end: a real gateway, real processes, real storage."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.gateway_process import Gateway, Json, eventually, gateway

STM = [["a"], ["b"], ["c"]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for the tests that leave it as it was."""
    with gateway(tmp_path_factory.mktemp("shared") / "home") as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway for one test alone."""
    with gateway(tmp_path / "home") as running:
        yield running


def observe(running: Gateway, session_id: str, *events: str) -> None:
    """Observe the events one by one."""
    for event in events:
        running.ask("POST", f"/sessions/{session_id}/observe", {"strings": [event]})


def stm(running: Gateway, session_id: str) -> object:
    """Return the session's STM."""
    return running.ask("GET", f"/sessions/{session_id}/stm")["stm"]


def say(socket: ClientConnection, kind: str, payload: Json | None = None, **more: object) -> Json:
    """Send one message and return its answer."""
    socket.send(json.dumps({"type": kind, "payload": payload or {}, **more}))
    answer: Json = json.loads(socket.recv())
    return answer


@pytest.mark.parametrize(
    ("create", "prefix"),
    [("/sessions", "/sessions/{}"), ("/session/create", "/session/{}"), ("/v2/sessions", "/v2/sessions/{}")],
)
def test_a_session_learns_and_predicts(shared: Gateway, create: str, prefix: str) -> None:
    """On each family of paths: create, observe, learn, observe again, and the future is known."""
    reply = shared.call("POST", create, {"user_id": "ann", "metadata": {"n": [1]}})
    assert reply.status_code == 201
    session = reply.json()
    path = prefix.format(session["session_id"])
    for event in ("a", "b", "c"):
        assert shared.ask("POST", f"{path}/observe", {"strings": [event]})["session_id"] == session["session_id"]
    learned = shared.ask("POST", f"{path}/learn")["pattern_name"]
    observe(shared, session["session_id"], "a", "b")
    [prediction] = shared.ask("GET", f"{path}/predictions")["predictions"]
    assert (prediction["name"], prediction["future"]) == (learned, [["c"]])
    assert shared.ask("GET", f"{path}/pattern/{learned}")["pattern"]["pattern_data"] == STM
    assert shared.ask("GET", path)["metadata"] == {"n": [1]}
    assert shared.ask("DELETE", path)["status"] == "deleted"
    assert shared.call("GET", path).status_code == 404


def test_the_root_is_the_default_session(shared: Gateway) -> None:
    """A v1 path at the root works without any session made before, and X-Session-ID names another one there."""
    assert shared.ask("POST", "/observe", {"strings": ["x"]})["session_id"] == "default"
    other = shared.ask("POST", "/sessions")["session_id"]
    reply = shared.call("POST", "/observe", {"strings": ["y"]}, x_session_id=other)
    assert reply.headers["X-Session-ID"] == reply.json()["session_id"] == other
    assert shared.ask("GET", "/short-term-memory", x_session_id=other)["stm"] == [["y"]]
    assert shared.ask("GET", "/stm")["stm"] == [["x"]]
    assert shared.ask("GET", "/sessions/default")["expires_at"] is None
    assert shared.call("GET", "/stm", x_session_id="nobody").json()["error"]["code"] == "SESSION_NOT_FOUND"


def test_a_session_is_told_whole(shared: Gateway) -> None:
    """The reply to a creation has every field, with the effective configuration and the node's addresses."""
    wanted = {"session_id": "told", "user_id": "ann", "ttl_seconds": 60, "config": {"persistence": 7}}
    session = shared.ask("POST", "/sessions", wanted)
    assert set(session) == {
        "session_id",
        "user_id",
        "node_id",
        "processor_id",
        "status",
        "container_name",
        "port",
        "internal_url",
        "external_url",
        "ws_url",
        "created_at",
        "expires_at",
        "ttl_seconds",
        "last_activity_at",
        "session_config",
        "metadata",
        "access_token",
        "start",
        "timings_ms",
    }
    assert (session["session_id"], session["node_id"], session["processor_id"]) == ("told", "told", "told")
    assert (session["status"], session["ttl_seconds"]) == ("active", 60)
    assert session["external_url"] == f"http://127.0.0.1:{session['port']}"
    assert session["session_config"]["persistence"] == 7
    assert set(session["timings_ms"]) == {"claim", "spawn", "ready", "bind", "total"}
    again = shared.call("POST", "/sessions", wanted)
    assert (again.status_code, again.json()["created_at"]) == (200, session["created_at"])
    conflict = shared.call("POST", "/sessions", {"session_id": "told", "user_id": "bob"})
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "CONFLICT")
    shared.ask("POST", "/sessions/told/genes/update", {"genes": {"persistence": 9}})
    assert shared.ask("GET", "/sessions/told")["session_config"]["persistence"] == 9


def test_a_node_is_reached_directly(shared: Gateway) -> None:
    """At a session's external_url its node answers, and means that session without being told."""
    session = shared.ask("POST", "/sessions")
    observe(shared, session["session_id"], "a")
    reply = httpx.post(session["external_url"] + "/observe", json={"strings": ["b"]})
    assert reply.json()["session_id"] == session["session_id"]
    assert stm(shared, session["session_id"]) == [["a"], ["b"]]


def test_sessions_of_one_node_id_share_what_is_learned(shared: Gateway) -> None:
    """Two sessions that name one node_id have one LTM and nothing else in common; a later one finds it too."""
    first = shared.ask("POST", "/sessions", {"node_id": "common"})
    second = shared.ask("POST", "/sessions", {"node_id": "common"})
    assert second["start"] == "shared"
    assert first["external_url"] == second["external_url"]
    observe(shared, first["session_id"], "a", "b", "c")
    assert stm(shared, second["session_id"]) == []
    shared.ask("POST", f"/sessions/{first['session_id']}/learn")
    for session in (first, second):
        shared.ask("DELETE", f"/sessions/{session['session_id']}")
    third = shared.ask("POST", "/sessions", {"node_id": "common"})
    observe(shared, third["session_id"], "a", "b")
    [prediction] = shared.ask("GET", f"/sessions/{third['session_id']}/predictions")["predictions"]
    assert prediction["future"] == [["c"]]


def test_a_websocket_does_it_all(shared: Gateway) -> None:
    """Over its ws_url a session observes, learns and predicts, and an error leaves the socket open."""
    session = shared.ask("POST", "/sessions")
    with connect(session["ws_url"]) as socket:
        for event in ("a", "b", "c"):
            answer = say(socket, "observe", {"strings": [event]}, id=event)
            assert (answer["type"], answer["id"]) == ("observation_result", event)
        assert say(socket, "nonsense")["data"]["code"] == "VALIDATION_ERROR"
        assert say(socket, "observe", {"strings": ["x" * 2**20]})["data"]["code"] == "BODY_TOO_LARGE"
        assert say(socket, "get_stm")["data"]["stm"] == STM
        learned = say(socket, "learn")["data"]["pattern_name"]
        say(socket, "observe", {"strings": ["a"]})
        say(socket, "observe", {"strings": ["b"]})
        [prediction] = say(socket, "get_predictions")["data"]["predictions"]
        assert prediction["name"] == learned
        assert say(socket, "ping")["type"] == "pong"
    with shared.socket(f"/ws?session_id={session['session_id']}") as socket:
        assert say(socket, "get_stm")["data"]["stm"] == [["a"], ["b"]]


def test_a_call_after_its_node_was_killed_finds_all(own: Gateway) -> None:
    """A node that is killed takes nothing with it: the next call wakes another, with the STM and LTM whole."""
    session_id = own.ask("POST", "/sessions")["session_id"]
    observe(own, session_id, "a", "b", "c")
    with own.socket(f"/sessions/{session_id}/ws") as socket:
        assert say(socket, "get_stm")["data"]["stm"] == STM
        os.kill(own.pid_of(session_id), signal.SIGKILL)
        # A message on its way to a node that dies is owed an answer: its socket closes. This one comes afterwards.
        eventually(lambda: own.ask("GET", f"/sessions/{session_id}")["status"] == "hibernated", "the node's end")
        assert say(socket, "get_stm")["data"]["stm"] == STM
    own.ask("POST", f"/sessions/{session_id}/learn")
    os.kill(own.pid_of(session_id), signal.SIGKILL)
    observe(own, session_id, "a", "b")
    [prediction] = own.ask("GET", f"/sessions/{session_id}/predictions")["predictions"]
    assert prediction["future"] == [["c"]]


def test_a_large_body_reaches_a_node_and_its_successor(own: Gateway) -> None:
    """A body that is too large to be kept is streamed to the node, and to a new one if that was gone before."""
    path = f"/sessions/{own.ask('POST', '/sessions')['session_id']}"
    sequence = {"observations": [{"strings": [f"{n}" * 2**15]} for n in range(64)], "clear_stm_between": True}
    assert own.ask("POST", f"{path}/observe-sequence", sequence)["observations_processed"] == 64
    os.kill(own.pid_of(path.rpartition("/")[2]), signal.SIGKILL)
    assert own.ask("POST", f"{path}/observe-sequence", sequence)["observations_processed"] == 64
    assert own.ask("GET", f"{path}/stm")["stm"] == [["63" * 2**15]]


def test_a_gateway_that_was_killed_finds_its_nodes_again(own: Gateway) -> None:
    """Sessions and nodes outlive a killed gateway: its successor serves them from where they are."""
    session_id = own.ask("POST", "/sessions")["session_id"]
    observe(own, session_id, "a", "b", "c")
    pid = own.pid_of(session_id)
    own.kill()
    own.start()
    assert stm(own, session_id) == STM
    assert own.pid_of(session_id) == pid
    own.kill()
    os.kill(pid, signal.SIGKILL)
    own.start()
    assert stm(own, session_id) == STM
    assert own.pid_of(session_id) != pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_no_process_and_loses_nothing(own: Gateway, number: signal.Signals) -> None:
    """Ctrl-C closes sockets with 1012 and ends every node, exit status 0; a restart finds every session."""
    ids = [own.ask("POST", "/sessions", {"node_id": node_id})["session_id"] for node_id in ("p", "p", "q")]
    for session_id in ids:
        observe(own, session_id, session_id)
    assert len(own.nodes()) >= 2
    assert {own.process.pid, *own.nodes().values()} < {process.pid for process in own.processes()}
    with own.socket(f"/sessions/{ids[0]}/ws") as socket:
        say(socket, "ping")
        assert own.stop(number) == 0
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    assert own.nodes() == {}
    eventually(lambda: not own.processes(), "the end of every process of the home")
    own.start()
    for session_id in ids:
        assert own.ask("GET", f"/sessions/{session_id}")["status"] == "hibernated"
        assert stm(own, session_id) == [[session_id]]


def test_a_node_of_the_pool_does_not_idle(tmp_path: Path) -> None:
    """A node that has waited in the pool for longer than it may idle serves the session that it is given."""
    with gateway(tmp_path / "home", IDLE_TIMEOUT_S="1") as running:
        eventually(running.nodes, "a node in the pool")
        [waiting] = running.nodes().values()
        eventually(lambda: time.time() - psutil.Process(waiting).create_time() > 2, "a node that has waited")
        session_id = running.ask("POST", "/sessions")["session_id"]
        observe(running, session_id, "a", "b", "c")
        assert running.pid_of(session_id) == waiting
        assert stm(running, session_id) == STM


def test_an_idle_node_stops_itself_and_is_woken(tmp_path: Path) -> None:
    """A node without calls ends although a socket to it is open; the socket's next message, or a call, wakes one."""
    with gateway(tmp_path / "home", IDLE_TIMEOUT_S="1", WARM_POOL_SIZE="0") as running:
        session_id = running.ask("POST", "/sessions")["session_id"]
        path = f"/sessions/{session_id}"
        observe(running, session_id, "a", "b", "c")
        with running.socket(f"{path}/ws") as socket:
            eventually(lambda: not running.nodes(), "the end of the idle node")
            assert say(socket, "get_stm")["data"]["stm"] == STM
        eventually(lambda: not running.nodes(), "the end of the woken node")
        eventually(lambda: running.ask("GET", path)["status"] == "hibernated", "a hibernated session")
        assert running.ask("GET", path)["container_name"] is None
        assert stm(running, session_id) == STM
        assert running.ask("GET", path)["status"] == "active"

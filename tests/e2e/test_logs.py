"""The logs of gateway, nodes and fork server: one JSON object a line, a request found by its id, a level for each."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.gateway_process import Gateway, Json, eventually, gateway


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of the test's own."""
    with gateway(tmp_path / "home") as own:
        yield own


def lines_of(text: str) -> list[Json]:
    """Return the lines of a log, each of which must be a whole one; but for a last one that is still being written."""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    for line in lines:
        assert {"ts", "level", "event"} <= line.keys()
    return lines


def node_log(running: Gateway, session_id: str) -> Path:
    """Return where the log of the session's node stands."""
    name = running.ask("GET", f"/sessions/{session_id}")["container_name"]
    return running.home / "logs" / f"{name.removeprefix('kato-')}.log"


def test_one_request_is_followed_through_both_services(running: Gateway) -> None:
    """A call's X-Request-ID finds it in the gateway's log and in its node's, each with session, processor and epoch."""
    session_id = running.ask("POST", "/sessions", {"node_id": "p"})["session_id"]
    running.ask("POST", f"/sessions/{session_id}/observe", {"strings": ["a"]}, x_request_id="follow-me")
    for path in (running.log_path, node_log(running, session_id)):
        eventually(lambda: "follow-me" in path.read_text(), "the call's line")  # noqa: B023 - asked at once
        [line] = [line for line in lines_of(path.read_text()) if line.get("request_id") == "follow-me"]
        assert (line["event"], line["level"], line["status"]) == ("request", "INFO", 200)
        assert (line["session_id"], line["processor_id"], line["epoch"]) == (session_id, "p", 1)


def test_a_call_that_wakes_a_node_is_followed_to_it(running: Gateway) -> None:
    """What a call sets off in the gateway, and what it does on the node that it wakes, carry its request id."""
    session_id = running.ask("POST", "/sessions")["session_id"]
    os.kill(running.pid_of(session_id), signal.SIGKILL)
    running.ask("POST", f"/sessions/{session_id}/learn", x_request_id="wake-up")

    def told() -> set[str]:
        return {line["event"] for line in lines_of(running.log) if line.get("request_id") == "wake-up"}

    eventually(lambda: {"node_bound", "request"} <= told(), "what the call set off in the gateway's log")
    eventually(lambda: "wake-up" in node_log(running, session_id).read_text(), "the call in its node's log")


def test_a_sockets_messages_are_followed(running: Gateway) -> None:
    """Each message of a WebSocket is a line in its node's log, with the request id of the handshake."""
    session_id = running.ask("POST", "/sessions")["session_id"]
    with running.socket(f"/sessions/{session_id}/ws", x_request_id="talk") as socket:
        socket.send('{"type": "learn", "id": "m-1"}')
        socket.recv()
    log = node_log(running, session_id)
    eventually(lambda: '"event": "message"' in log.read_text(), "the message's line")
    told = [line for line in lines_of(log.read_text()) if line["event"] == "message"]
    assert [(line["request_id"], line["message_id"], line["outcome"]) for line in told] == [("talk", "m-1", "okay")]
    eventually(lambda: '"request_id": "talk"' in running.log, "the end of the socket in the gateway's log")


def test_no_log_tells_what_was_observed(running: Gateway) -> None:
    """No log above DEBUG holds a symbol, an emotive or metadata, whether the call was accepted or refused."""
    session_id = running.ask("POST", "/sessions")["session_id"]
    at = f"/sessions/{session_id}"
    secret = {"strings": ["hush-1"], "emotives": {"hush-2": 1.0}, "metadata": {"hush-3": "hush-4"}}
    running.ask("POST", f"{at}/observe", secret)
    running.ask("POST", f"{at}/observe", {"strings": ["hush-5"]})
    running.ask("POST", f"{at}/learn")
    running.ask("GET", f"{at}/predictions")
    refused: list[Json] = [{"strings": "hush-6"}, {"hush-7": []}, {"strings": ["a"], "emotives": {"hush-8": "x"}}]
    for bad in refused:
        assert running.call("POST", f"{at}/observe", bad).status_code == 422
    with running.socket(f"{at}/ws") as socket:
        for message in ({"type": "observe", "payload": {"strings": ["hush-9"]}}, {"type": "hush-10"}):
            socket.send(json.dumps(message))
            socket.recv()
    logs = [running.log, *(path.read_text() for path in running.home.rglob("log*/*.log"))]
    assert len(logs) >= 2
    assert not any("hush" in text for text in logs)


def _tells(level: str, log: str) -> bool:
    return f'"log_level": "{level}"' in log


def test_the_level_is_changed_at_run_time(running: Gateway) -> None:
    """SIGHUP has gateway, node and fork server each read their level from KATO_HOME/log_level; what is none is told."""
    session_id = running.ask("POST", "/sessions")["session_id"]
    node_pid, log = running.pid_of(session_id), node_log(running, session_id)
    own = running.home / "forkserver" / "log"
    fork_server = psutil.Process(node_pid).ppid()
    for level in ("DEBUG", "WARNING"):
        (running.home / "log_level").write_text(f"{level.lower()}\n")
        for pid in (running.process.pid, node_pid, fork_server):
            os.kill(pid, signal.SIGHUP)
        eventually(lambda: _tells(level, running.log), "the gateway's new level")  # noqa: B023 - asked at once
        eventually(lambda: _tells(level, log.read_text()), "the node's new level")  # noqa: B023
        eventually(lambda: _tells(level, own.read_text()), "the fork server's new level")  # noqa: B023
        running.ask("GET", "/health", x_request_id=f"quiet-{level}")
    eventually(lambda: "quiet-DEBUG" in running.log, "the line of a call at DEBUG")
    assert "quiet-WARNING" not in running.log
    (running.home / "log_level").write_text("LOUD")
    os.kill(running.process.pid, signal.SIGHUP)
    eventually(lambda: "log_level_unreadable" in running.log, "a word about what is no level")
    assert running.ask("GET", f"/sessions/{session_id}/stm")["stm"] == []

"""The gateway on MongoDB, its nodes being processes: what SQLite gives, and a database that comes and goes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from tests.e2e.gateway_process import PATIENCE_S, Gateway, eventually, gateway, start
from tests.mongo import Client, StandIn

EVENTS = ("a", "b", "c")
PASSWORD = "a-password-of-nobody-else"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    """A MongoDB of this test's own."""
    with StandIn(tmp_path / "mongo") as server:
        yield server


@pytest.fixture
def running(tmp_path: Path, mongo_url: str, mongo_database: str) -> Iterator[Gateway]:
    """A gateway on the run's MongoDB, in a database of this test's own."""
    settings = {"RUNTIME": "process", "MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database}
    with gateway(tmp_path / "home", **settings) as running:
        yield running


def observe(running: Gateway, session_id: str, *events: str) -> None:
    """Observe the events one by one."""
    for event in events:
        running.ask("POST", f"/sessions/{session_id}/observe", {"strings": [event]})


def stm(running: Gateway, session_id: str) -> object:
    """Return the session's STM."""
    return running.ask("GET", f"/sessions/{session_id}/stm")["stm"]


def test_a_session_learns_and_predicts(running: Gateway, mongo_admin: Client, mongo_database: str) -> None:
    """The first session works as on SQLite; everything is in the one database, and no file holds any of it."""
    session = running.ask("POST", "/sessions", {"node_id": "p"})["session_id"]
    observe(running, session, *EVENTS)
    running.ask("POST", f"/sessions/{session}/learn")
    running.ask("DELETE", f"/sessions/{session}")
    running.ask("POST", "/sessions", {"session_id": "next", "node_id": "p"})
    observe(running, "next", "a", "b")
    [prediction] = running.ask("GET", "/sessions/next/predictions")["predictions"]
    assert prediction["future"] == [["c"]]
    assert running.ask("GET", "/ready")["dependencies"] == {"registry": "okay", "runtime": "okay"}
    assert not list(running.home.rglob("*.sqlite"))
    assert len(mongo_admin[mongo_database].list_collection_names()) > 1


def test_a_killed_node_loses_nothing(running: Gateway) -> None:
    """After kill -9 of its node the session's next call is answered by another one, with all that was acknowledged."""
    running.ask("POST", "/sessions", {"session_id": "s"})
    observe(running, "s", *EVENTS)
    os.kill(running.pid_of("s"), signal.SIGKILL)
    observe(running, "s", "d")
    assert stm(running, "s") == [["a"], ["b"], ["c"], ["d"]]


def test_a_killed_gateway_finds_everything_again(running: Gateway) -> None:
    """After kill -9 of the gateway its successor serves the sessions of before by the nodes of before."""
    running.ask("POST", "/sessions", {"session_id": "s"})
    observe(running, "s", *EVENTS)
    node = running.pid_of("s")
    running.kill()
    running.start()
    assert stm(running, "s") == [["a"], ["b"], ["c"]]
    assert running.pid_of("s") == node


def test_a_session_sleeps_and_wakes(tmp_path: Path, mongo_url: str, mongo_database: str) -> None:
    """An idle session's node ends, and its next call wakes another one, which knows all."""
    settings = {"RUNTIME": "process", "MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database}
    with gateway(tmp_path / "home", IDLE_TIMEOUT_S="0.3", **settings) as running:
        running.ask("POST", "/sessions", {"session_id": "s"})
        observe(running, "s", *EVENTS)
        eventually(lambda: running.ask("GET", "/sessions/s")["status"] == "hibernated", "a hibernated session")
        assert stm(running, "s") == [["a"], ["b"], ["c"]]


def waiting(home: Path, url: str, **settings: str) -> tuple[Popen[str], str]:
    """Start a gateway that finds no MongoDB; return it, and what it said first."""
    process = start(home, RUNTIME="process", MONGO_URL=url, **settings)
    assert process.stdout is not None
    return process, process.stdout.readline()


def test_the_start_waits_for_mongodb(tmp_path: Path) -> None:
    """A gateway that finds no MongoDB says so and goes on looking; once there is one it serves."""
    with StandIn(tmp_path / "mongo") as server:
        server.kill()
        process, said = waiting(tmp_path / "home", server.url)
        try:
            assert "waits for its MongoDB" in said
            assert "MONGO_URL" in said
            server.start()
            assert process.stdout is not None
            served = next(line for line in process.stdout if "serves at" in line)
            found = re.search(r"http://\S+:\d+", served)
            assert found
            assert httpx.post(f"{found[0]}/sessions", timeout=PATIENCE_S).status_code == 201
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0


def test_ctrl_c_ends_the_waiting(tmp_path: Path) -> None:
    """A gateway that waits for MongoDB ends on Ctrl-C with status 0, has started nothing, and logs no password."""
    with StandIn(tmp_path / "mongo") as server:
        server.kill()
        process, said = waiting(
            tmp_path / "home", server.url.replace("//", f"//kato:{PASSWORD}@"), LOG_LEVEL="DEBUG", WARM_POOL_SIZE="0"
        )
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert not (tmp_path / "home" / "forkserver").exists()
    assert PASSWORD not in said + rest + (tmp_path / "home.log").read_text()


@pytest.mark.slow
def test_a_mongodb_that_goes_away_comes_back(tmp_path: Path, server: StandIn) -> None:
    """Meanwhile reads say degraded, and what needs the database is refused with Retry-After and applies nothing; then
    all goes on by itself, the same nodes included.
    """
    with gateway(tmp_path / "home", RUNTIME="process", MONGO_URL=server.url) as running:
        running.ask("POST", "/sessions", {"session_id": "s"})
        observe(running, "s", *EVENTS)
        node = running.pid_of("s")
        server.kill()
        for path, body in (("/sessions/s/observe", {"strings": ["x"]}), ("/sessions", {})):
            refused = running.call("POST", path, body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")
            assert int(refused.headers["Retry-After"]) > 0
        told = running.ask("GET", "/sessions/s/stm")
        assert (told["stm"], told["degraded"]) == ([["a"], ["b"], ["c"]], True)
        assert running.call("GET", "/ready").json()["error"]["details"]["dependencies"]["registry"] == "unavailable"
        server.start()
        eventually(
            lambda: running.call("POST", "/sessions/s/observe", {"strings": ["d"]}).is_success, "an observation again"
        )
        eventually(lambda: running.call("GET", "/ready").is_success, "a gateway that is ready again")
        assert stm(running, "s") == [["a"], ["b"], ["c"], ["d"]]
        assert running.pid_of("s") == node
        assert running.ask("POST", "/sessions")["status"] == "active"


def refused(home: Path, **settings: str) -> str:
    """Start a gateway that is to end with status 1; return the one line that it said about it."""
    process = start(home, RUNTIME="process", **settings)
    out, _ = process.communicate(timeout=PATIENCE_S)
    said = [line for line in (home.parent / f"{home.name}.log").read_text().splitlines() if not line.startswith("{")]
    assert (process.returncode, out, len(said)) == (1, "", 1)
    return said[0]


def test_a_mongodb_without_replica_set_is_refused(tmp_path: Path) -> None:
    """Waiting would not help: one line names the setting and says what to do."""
    with StandIn(tmp_path / "mongo", "--standalone") as server:
        said = refused(tmp_path / "home", MONGO_URL=server.url)
    assert said.startswith("kato-gateway: MONGO_URL: ")
    assert "replica set" in said


def test_records_of_a_newer_version_are_refused(
    tmp_path: Path, mongo_url: str, mongo_database: str, mongo_admin: Client
) -> None:
    """A gateway does not touch what a newer one wrote, and says so in one line."""
    mongo_admin[mongo_database]["gateway_facts"].insert_one({"_id": "/schema", "schema": 1_000})
    said = refused(tmp_path / "home", MONGO_URL=mongo_url, MONGO_DATABASE=mongo_database)
    assert said.startswith("kato-gateway: MONGO_URL: A newer KATO")


def test_gateways_of_one_mongodb_have_one_secret(tmp_path: Path, running: Gateway) -> None:
    """A second gateway with another secret does not start, and says in one line which setting is to be changed."""
    settings = {name: running.settings[name] for name in ("RUNTIME", "MONGO_URL", "MONGO_DATABASE")}
    said = refused(tmp_path / "second", **{name: value for name, value in settings.items() if name != "RUNTIME"})
    assert said.startswith("kato-gateway: DEPLOYMENT_SECRET_FILE: ")
    secret = str(running.home / "secret")
    with gateway(tmp_path / "third", **settings, DEPLOYMENT_SECRET_FILE=secret) as other:
        running.ask("POST", "/sessions", {"session_id": "s"})
        observe(running, "s", "a")
        assert other.ask("GET", "/sessions/s")["status"] == "active"

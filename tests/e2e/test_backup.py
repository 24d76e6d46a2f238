"""Backup and restore, of files and of MongoDB: what was acknowledged before the backup is there after the restore."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymongo import MongoClient

from tests.e2e.gateway_process import Gateway, eventually, gateway
from tests.mongo import Client


def tool(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one of the gateway's tools on a home."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "kato_gateway", *arguments],
        env={**inherited, "KATO_HOME": str(home), "GATEWAY_PORT": "0", **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def restore(home: Path, copy: Path) -> None:
    """Do what the page says: the databases of the home go, with what belongs to them; the copy takes their place."""
    for path in (*home.glob("gateway.sqlite*"), *(home / "processors").glob("*")):
        path.unlink()
    shutil.copytree(copy, home, dirs_exist_ok=True)


@contextmanager
def observing(running: Gateway, session: str, acknowledged: list[list[str]]) -> Iterator[None]:
    """Observe numbers on the session, as fast as they are acknowledged, until the end of the block."""
    leave = threading.Event()

    def observe() -> None:
        while not leave.is_set():
            event = [str(len(acknowledged))]
            running.ask("POST", f"/sessions/{session}/observe", {"strings": event})
            acknowledged.append(event)

    thread = threading.Thread(target=observe)
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def fill(running: Gateway) -> tuple[str, str]:
    """Make a session that has learned and observes on, and another one; return their ids."""
    first = running.ask("POST", "/sessions", {"node_id": "p", "config": {"recall_threshold": 0.2}})["session_id"]
    second = running.ask("POST", "/sessions", {"node_id": "q"})["session_id"]
    for number in range(20):
        observation = {
            "strings": ["a", f"x{number % 3}"],
            "vectors": [[number / 7, 0.1, 1e-9]],
            "emotives": {"joy": number / 3},
            "metadata": {"number": number},
        }
        running.ask("POST", f"/sessions/{first}/observe", observation)
        if number % 5 == 4:
            running.ask("POST", f"/sessions/{first}/learn")
    running.ask("POST", f"/sessions/{first}/observe", {"strings": ["a", "x1"]})
    running.ask("POST", f"/sessions/{first}/observe", {"strings": ["a", "x2"]})
    return first, second


def answers(running: Gateway, session: str) -> dict[str, object]:
    """Return what the session answers of itself and its patterns."""
    found = {name: running.ask("GET", f"/sessions/{session}/{name}") for name in ("stm", "patterns", "predictions")}
    return {**found, "config": running.ask("GET", f"/sessions/{session}/config")}


def test_a_backup_of_a_running_installation_restores_it(tmp_path: Path) -> None:
    """Copied under load and put back after everything was lost: sessions, their state and patterns are there, nothing
    that was acknowledged before the backup is missing, and nothing is out of order.
    """
    home, copy = tmp_path / "home", tmp_path / "copy"
    acknowledged: list[list[str]] = []
    with gateway(home) as running:
        first, second = fill(running)
        before = answers(running, first)
        with observing(running, second, acknowledged):
            eventually(lambda: len(acknowledged) > 20, "some observations")
            known = len(acknowledged)
            done = tool(home, "backup", str(copy))
            assert (done.returncode, done.stderr) == (0, "")
            eventually(lambda: len(acknowledged) > known + 20, "observations after the backup")
        running.ask("DELETE", f"/sessions/{first}?purge=true")
        running.stop()
        restore(home, copy)
        running.start()
        assert answers(running, first) == before
        held = running.ask("GET", f"/sessions/{second}/stm")["stm"]
        assert len(held) >= known
        assert held == acknowledged[: len(held)]
        running.ask("POST", f"/sessions/{first}/learn")
    assert tool(home, "doctor").returncode == 0


def test_a_backup_after_a_crash_has_everything(tmp_path: Path) -> None:
    """With all killed, a backup of what they left has everything that was acknowledged, also in another home."""
    home, copy = tmp_path / "home", tmp_path / "copy"
    with gateway(home) as running:
        first, _ = fill(running)
        before = answers(running, first)
        running.kill()
        for process in running.processes():
            os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: not running.processes(), "the end of all")
        assert tool(home, "backup", str(copy)).returncode == 0
        assert not [path for path in copy.rglob("*") if path.name.endswith(("-wal", "-shm"))]
        assert {path.stat().st_mode & 0o077 for path in (copy, *copy.rglob("*"))} == {0}
        other = tmp_path / "other"
        with gateway(other) as elsewhere:
            elsewhere.stop()
            restore(other, copy)
            elsewhere.start()
            assert answers(elsewhere, first) == before
        running.start()


def test_a_backup_that_cannot_be_whole_is_refused(tmp_path: Path) -> None:
    """Into a folder in use, of a home with nothing in it, of a damaged file, of MongoDB: one line each."""
    home = tmp_path / "home"
    done = tool(home, "backup", str(tmp_path / "copy"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "nothing" in done.stderr
    with gateway(home) as running:
        fill(running)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "old").touch()
    done = tool(home, "backup", str(tmp_path / "used"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not empty" in done.stderr
    done = tool(home, "backup", str(tmp_path / "copy"), MONGO_URL="mongodb://127.0.0.1/", RUNTIME="process")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "mongodump" in done.stderr
    path = home / "processors" / "p.sqlite"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    done = tool(home, "backup", str(tmp_path / "copy"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "p.sqlite" in done.stderr


def test_an_export_restores_a_processor_elsewhere(tmp_path: Path) -> None:
    """Exported and imported into a fresh processor, whose node is then replaced, the export is the same to the byte but
    for the header's identity, and what is predicted is the same.
    """
    with gateway(tmp_path / "home") as running:
        first, _ = fill(running)
        exported = running.call("GET", f"/sessions/{first}/export").content
        second = running.ask("POST", "/sessions", {"node_id": "r", "config": {"recall_threshold": 0.2}})["session_id"]
        reply = running.client.post(
            f"{running.url}/sessions/{second}/import",
            content=exported,
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert reply.json()["imported"] == 4, reply.text
        os.kill(running.pid_of(second), signal.SIGKILL)
        again = running.call("GET", f"/sessions/{second}/export").content
        header, *patterns = exported.splitlines()
        other_header, *other_patterns = again.splitlines()
        assert patterns == other_patterns
        identity = {"export_id", "processor_id", "created_at"}
        assert [
            {name: value for name, value in json.loads(each).items() if name not in identity}
            for each in (header, other_header)
        ] == 2 * [{name: value for name, value in json.loads(header).items() if name not in identity}]
        for event in (["a", "x1"], ["a", "x2"]):
            running.ask("POST", f"/sessions/{second}/observe", {"strings": event})
        shown = [running.ask("GET", f"/sessions/{each}/predictions")["predictions"] for each in (first, second)]
        assert shown[0] == shown[1] != []


def copied(url: str, source: str, target: str) -> None:
    """Copy a database with the driver, collections, options and indexes, as mongodump and mongorestore do."""
    client: Client = MongoClient(url)
    with client:
        for name in client[source].list_collection_names():
            collection = client[source][name]
            client[target].create_collection(name)
            for index, made in collection.index_information().items():
                if index != "_id_":
                    options = {key: made[key] for key in ("unique", "sparse") if key in made}
                    client[target][name].create_index(made["key"], name=index, **options)
            for document in collection.find():
                client[target][name].insert_one(document)


def test_a_copy_of_the_database_restores_everything(tmp_path: Path, mongo_url: str, mongo_database: str) -> None:
    """With MongoDB: a copy of its database, used with the same secret, has the sessions, their state and patterns."""
    restored = f"{mongo_database}-restored"
    settings = {"MONGO_URL": mongo_url, "RUNTIME": "process"}
    try:
        with gateway(tmp_path / "home", MONGO_DATABASE=mongo_database, **settings) as running:
            first, _ = fill(running)
            before = answers(running, first)
        copied(mongo_url, mongo_database, restored)
        (tmp_path / "other").mkdir(mode=0o700)
        shutil.copyfile(tmp_path / "home" / "secret", tmp_path / "other" / "secret")
        with gateway(tmp_path / "other", MONGO_DATABASE=restored, **settings) as running:
            assert answers(running, first) == before
            running.ask("POST", f"/sessions/{first}/learn")
    finally:
        client: Client = MongoClient(mongo_url)
        with client:
            client.drop_database(restored)

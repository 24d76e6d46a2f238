"""The doctor on real installations, well ones and ones with a real fault: it says what is wrong and changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from container_manager.runtimes.process import ProcessRuntime
from kato_gateway.doctor.files import PROCESSOR_SCHEMA
from kato_node.store.sqlite import SCHEMA_VERSION
from tests.e2e.gateway_process import eventually, gateway
from tests.processes import process_runtime, tiny_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the doctor said.

    Attributes:
        findings: the status, message and advice of each, by what was looked at.
    """

    status: int
    findings: Mapping[str, list[tuple[str, str, str]]]

    def worst(self, check: str) -> str:
        """Return the worst that was said of something."""
        return max((status for status, _, _ in self.findings[check]), key=["ok", "warn", "fail"].index)

    def said(self, check: str) -> str:
        """Return all that was said of something."""
        return " / ".join(f"{message} -> {advice}" for _, message, advice in self.findings[check])


def doctor(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the doctor on a home."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "kato_gateway", "doctor", *arguments],
        env={**inherited, "KATO_HOME": str(home), "GATEWAY_PORT": "0", **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def examined(home: Path, **settings: str) -> Report:
    """Run the doctor, and return what it said; whatever is no well must come with advice."""
    done = doctor(home, "--json", **settings)
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] is (done.returncode == 0)
    findings: dict[str, list[tuple[str, str, str]]] = {}
    for found in report["findings"]:
        assert bool(found["advice"]) is (found["status"] != "ok"), found
        findings.setdefault(found["check"], []).append((found["status"], found["message"], found["advice"]))
    return Report(status=done.returncode, findings=findings)


def contents(home: Path) -> dict[str, bytes]:
    """Return every file of a home."""
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a gateway has run, and has been stopped."""
    home = tmp_path_factory.mktemp("used") / "home"
    with gateway(home) as running:
        session = running.ask("POST", "/sessions", {"node_id": "p"})["session_id"]
        running.ask("POST", f"/sessions/{session}/observe", {"strings": ["a"]})
    return home


@pytest.fixture
def home(used: Path, tmp_path: Path) -> Path:
    """A copy of that home, to be broken."""
    copy = tmp_path / "home"
    subprocess.run(["cp", "-a", str(used), str(copy)], check=True)
    return copy


def test_a_new_place_is_well(tmp_path: Path) -> None:
    """Before the first start all is well, and nothing is made."""
    report = examined(tmp_path / "home")
    assert report.status == 0
    assert not (tmp_path / "home").exists()


def test_a_stopped_installation_is_well_and_left_alone(home: Path) -> None:
    """Nothing fails and nothing is warned of after a stop; not a byte of the folder changes; people get a line for each
    finding and a count.
    """
    before = contents(home)
    report = examined(home)
    assert report.status == 0, report
    assert {report.worst(check) for check in report.findings} == {"ok"}, report
    done = doctor(home)
    assert done.returncode == 0
    assert "registry" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("0 warn; 0 fail")
    assert contents(home) == before


def test_a_running_installation_is_well_and_serves_on(tmp_path: Path) -> None:
    """While a gateway and its nodes run the doctor finds them well, names the gateway, and disturbs none of them."""
    with gateway(tmp_path / "home") as running:
        session = running.ask("POST", "/sessions", {})["session_id"]
        running.ask("POST", f"/sessions/{session}/observe", {"strings": ["a"]})
        port = running.url.rpartition(":")[2]
        report = examined(running.home, GATEWAY_PORT=port)
        assert report.status == 0, report
        assert {report.worst(check) for check in report.findings} == {"ok"}, report
        assert f"pid {running.process.pid}" in report.said("gateway")
        assert "gateway's" in report.said("port")
        assert running.ask("GET", f"/sessions/{session}/stm")["stm"] == [["a"]]


def test_a_missing_or_useless_secret_fails(home: Path, tmp_path: Path) -> None:
    """A secret that is gone, too short, named and not there, or open to others is said."""
    secret = home / "secret"
    secret.chmod(0o644)
    report = examined(home)
    assert (report.status, report.worst("secret")) == (0, "warn")
    assert "chmod 600" in report.said("secret")
    secret.write_text("short")
    assert examined(home).worst("secret") == "fail"
    secret.unlink()
    report = examined(home)
    assert (report.status, report.worst("secret")) == (1, "fail")
    assert "missing" in report.said("secret")
    assert examined(home, DEPLOYMENT_SECRET_FILE=str(tmp_path / "nowhere")).worst("secret") == "fail"


def test_keys_that_everybody_can_read_are_warned_of(home: Path, tmp_path: Path) -> None:
    """A file of keys is well unless every user of the machine can read it."""
    keys = tmp_path / "keys"
    keys.write_text("ann:a-key-of-nobody-at-all\n")
    for mode, status in ((0o600, "ok"), (0o644, "warn")):
        keys.chmod(mode)
        assert examined(home, API_KEYS_FILE=str(keys)).worst("keys") == status


def test_a_damaged_registry_fails(home: Path) -> None:
    """A registry file that is no database, or damaged inside, fails, and the advice is the backup."""
    path = home / "gateway.sqlite"
    whole = path.read_bytes()
    for damaged in (
        b"this is not a database" * 500,
        whole[: len(whole) // 2],
        whole[:4096] + b"\xff" * len(whole[4096:]),
    ):
        path.write_bytes(damaged)
        report = examined(home)
        assert (report.status, report.worst("registry")) == (1, "fail"), damaged[:40]
        assert "backup" in report.said("registry")


@pytest.mark.parametrize(("name", "check"), [("gateway.sqlite", "registry"), ("processors/p.sqlite", "processors")])
def test_a_database_of_a_newer_version_fails(home: Path, name: str, check: str) -> None:
    """A database that a newer KATO has used is told from a damaged one."""
    with closing(sqlite3.connect(home / name)) as connection:
        connection.execute("PRAGMA user_version = 99")
    report = examined(home)
    assert (report.status, report.worst(check)) == (1, "fail")
    assert "99" in report.said(check)


def test_a_damaged_processor_fails(home: Path) -> None:
    """A processor's file that is damaged is named."""
    path = home / "processors" / "p.sqlite"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    report = examined(home)
    assert (report.status, report.worst("processors")) == (1, "fail")
    assert "p.sqlite" in report.said("processors")


def test_the_schema_is_the_nodes() -> None:
    """The version of the processors' files that the doctor knows is the one that nodes write."""
    assert PROCESSOR_SCHEMA == SCHEMA_VERSION


def test_a_port_that_is_taken_fails(home: Path) -> None:
    """The doctor says who has the gateway's port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        report = examined(home, GATEWAY_PORT=str(taken.getsockname()[1]))
    assert (report.status, report.worst("port")) == (1, "fail")
    assert f"pid {os.getpid()}" in report.said("port")
    assert "GATEWAY_PORT" in report.said("port")


def test_a_bad_setting_fails(home: Path) -> None:
    """A setting that would stop the start is said, and nothing else is concluded from the settings."""
    report = examined(home, WARM_POOL_SIZE="many")
    assert (report.status, report.worst("settings")) == (1, "fail")
    assert "WARM_POOL_SIZE" in report.said("settings")


def test_a_folder_that_is_in_the_way_or_open_is_said(home: Path, tmp_path: Path) -> None:
    """A file where the folder should be fails; a folder that others may read is warned of."""
    home.chmod(0o755)
    assert examined(home).worst("home") == "warn"
    (tmp_path / "file").touch()
    assert examined(tmp_path / "file").worst("home") == "fail"


@contextmanager
def orphan(home: Path) -> Iterator[str]:
    """Run a node of the home's installation that no registry knows of; its id."""

    async def started() -> str:
        runtime = process_runtime(home, (home / "deployment").read_text())
        await runtime.open()
        node = await runtime.start(tiny_spec(deployment=(home / "deployment").read_text()), timeout_s=30)
        await runtime.close(leave_nodes=True)
        return node.node_id

    async def removed(node_id: str) -> None:
        runtime: ProcessRuntime = process_runtime(home, (home / "deployment").read_text())
        await runtime.open()
        await runtime.remove(node_id)
        await runtime.close()

    node_id = asyncio.run(started())
    try:
        yield node_id
    finally:
        asyncio.run(removed(node_id))


def test_orphans_fail(home: Path) -> None:
    """A node that runs and that no registry knows is named with its process; so is one whose lock file is gone."""
    with orphan(home) as node_id:
        path = home / "run" / f"{node_id}.json"
        pid = json.loads(path.read_text())["pid"]
        report = examined(home)
        assert (report.status, report.worst("nodes")) == (1, "fail")
        assert f"node {node_id} (pid {pid})" in report.said("nodes")
        assert f"kill {pid}" in report.said("nodes")
        path.unlink()
        report = examined(home)
        assert report.worst("nodes") == "fail"
        assert f"kill {pid}" in report.said("nodes")
        os.kill(pid, signal.SIGKILL)


def test_what_dead_nodes_leave_is_warned_of(home: Path) -> None:
    """The lock file of a node that was killed is a warning; one that cannot be understood fails."""
    with orphan(home) as node_id:
        path = home / "run" / f"{node_id}.json"
        os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
        eventually(lambda: examined(home).worst("nodes") == "warn", "the end of the node")
    (home / "run" / "odd.json").write_text("{")
    report = examined(home)
    assert (report.status, report.worst("nodes")) == (1, "fail")
    assert "odd" in report.said("nodes")


def test_a_killed_gateways_nodes_are_told(tmp_path: Path) -> None:
    """Nodes whose gateway was killed are a warning: the next one adopts them."""
    with gateway(tmp_path / "home") as running:
        session = running.ask("POST", "/sessions", {})["session_id"]
        running.kill()
        report = examined(running.home)
        assert (report.status, report.worst("nodes"), report.worst("gateway")) == (0, "warn", "ok"), report
        assert "adopts" in report.said("nodes")
        running.start()
        assert running.ask("GET", f"/sessions/{session}/exists")["exists"] is True


def test_a_clock_that_was_set_back_is_warned_of(home: Path) -> None:
    """Records of the future are told: sessions would end late."""
    with closing(sqlite3.connect(home / "gateway.sqlite", isolation_level=None)) as connection:
        document = {"changed_at_s": 4e9}
        connection.execute("INSERT INTO nodes VALUES ('n', 1, 'ended', NULL, ?)", (json.dumps(document),))
    assert examined(home).worst("clock") == "warn"


def test_mongodb_out_of_reach_fails(home: Path) -> None:
    """A MongoDB that does not answer fails, before the first start too, and nothing of its URL is told."""
    for folder in (home, home / "of-no-gateway-yet"):
        report = examined(folder, MONGO_URL="mongodb://me:s3cr3t@127.0.0.1:1/", RUNTIME="process")
        assert (report.status, report.worst("mongodb")) == (1, "fail")
        assert "s3cr3t" not in str(report)


def test_mongodb_is_looked_at(tmp_path: Path, mongo_url: str, mongo_database: str) -> None:
    """A MongoDB that answers is told with its version, and its clock is compared; a gateway's secret must be the one of
    all gateways there.
    """
    settings = {"MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database, "RUNTIME": "process"}
    with gateway(tmp_path / "home", **settings) as running:
        running.ask("POST", "/sessions", {})
        report = examined(running.home, **settings)
        assert report.status == 0, report
        assert "replica set" in report.said("mongodb")
        assert "MongoDB" in report.said("clock")
    (tmp_path / "home" / "secret").write_text("another secret than the one before")
    report = examined(tmp_path / "home", **settings)
    assert (report.status, report.worst("secret")) == (1, "fail")
    assert "not the secret" in report.said("secret")
    (tmp_path / "home" / "secret").unlink()
    assert "missing" in examined(tmp_path / "home", **settings).said("secret")


@pytest.mark.docker
def test_an_engine_is_looked_at(home: Path, mongo_url: str, mongo_database: str) -> None:
    """An engine that answers is well; an image that it does not have fails where containers are a must."""
    settings = {"MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database, "NODE_MONGO_URL": "mongodb://mongo:27017/"}
    report = examined(home, RUNTIME="docker", NODE_IMAGE="kato-test-no-such-image:0", **settings)
    assert (report.worst("engine"), report.worst("image")) == ("ok", "fail"), report
    assert "Docker" in report.said("clock")
    report = examined(home, RUNTIME="docker", DOCKER_HOST="unix:///nowhere/docker.sock", **settings)
    assert (report.status, report.worst("engine")) == (1, "fail")
    assert examined(home, DOCKER_HOST="unix:///nowhere/docker.sock", **settings).worst("engine") == "warn"

"""docker-compose.fastapi.yml, as a server's administrator uses it: `make compose-up`, `make compose-down`."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

import kato_node
from tests import mongo
from tests.engine import IMAGE, PATIENCE_S, ROOT, Container, can_be_had, docker

COMPOSE = (ROOT / "docker-compose.fastapi.yml").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()
ABC = "PTRN|b98534b32c1d7489d4ce1a48724aa65aeecbdba9"
Json = dict[str, Any]


class Installation:
    """One installation of its own, beside any other on this engine."""

    def __init__(self, folder: Path) -> None:
        self.name = f"kato-test-{uuid4().hex[:8]}"
        self.env_file = folder / "env"
        self.secrets = folder / "secrets"
        stand_in = not can_be_had(mongo.IMAGE)
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ},
            "ENV_FILE": str(self.env_file),
            "SECRETS_FOLDER": str(self.secrets),
            "COMPOSE_FILE": "docker-compose.fastapi.yml" + (":tests/e2e/compose.stand-in.yml" if stand_in else ""),
            "COMPOSE_PROJECT_NAME": self.name,
            "NODE_NETWORK": self.name,
            "NODE_IMAGE": IMAGE,
            "MONGO_IMAGE": mongo.STAND_IN_IMAGE if stand_in else mongo.IMAGE,
            "GATEWAY_ADDRESS": "127.0.0.1:",  # a port of the engine's choice
            "PRIMARY_ADDRESS": "127.0.0.1:",
            "WARM_POOL_SIZE": "1",
        }

    def make(self, door: str) -> str:
        """Open a door of the Makefile, and return what it prints."""
        return self.shell(f"make --no-print-directory {door}")

    def shell(self, script: str) -> str:
        """Run a script, which must succeed, and return what it prints."""
        done = subprocess.run(
            ["bash", "-euc", script], cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> str:
        """Start everything, and return how to make the first calls."""
        printed = self.make("compose-up")
        return printed[printed.index("KATO serves at") :]

    def containers(self, *filters: str) -> dict[str, Container]:
        """Return every container of the installation, also those that have ended, by name."""
        words = [word for one in filters for word in ("--filter", one)]
        listed = docker("ps", "--all", "--format", "{{.ID}} {{.Names}}", "--filter", f"network={self.name}", *words)
        return {name: Container(of) for of, name in (line.split() for line in listed.splitlines())}

    def nodes(self) -> dict[str, Container]:
        """Return the containers of nodes that the gateway started."""
        return self.containers("label=kato.node")

    def service(self, name: str) -> Container:
        """Return a service's container."""
        labels = f"label=com.docker.compose.project={self.name}", f"label=com.docker.compose.service={name}"
        words = [word for label in labels for word in ("--filter", label)]
        return Container(docker("ps", "--all", "--quiet", *words))

    def client(self, service: str, bearer: str) -> httpx.Client:
        """Return a client of what a service publishes."""
        headers = {"Authorization": f"Bearer {bearer}"}
        return httpx.Client(base_url=self.service(service).url, headers=headers, timeout=PATIENCE_S)

    def gateway(self) -> httpx.Client:
        """Return a client of the gateway with the key that was made."""
        return self.client("gateway", (self.secrets / "keys").read_text().strip().partition(":")[2])

    def left(self) -> dict[str, list[str]]:
        """Return what the engine has of the installation."""
        project = f"label=com.docker.compose.project={self.name}"
        return {
            "containers": docker("ps", "--all", "--quiet", "--filter", project).split() + list(self.containers()),
            "networks": docker("network", "ls", "--quiet", "--filter", f"name={self.name}").split(),
            "volumes": docker("volume", "ls", "--quiet", "--filter", f"name={self.name}").split(),
        }


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    """An installation; in the end nothing of it is left."""
    made = Installation(tmp_path)
    try:
        yield made
    finally:
        if made.env_file.exists():
            made.make("compose-down")
        docker("volume", "rm", "--force", f"{made.name}_mongo")


def observe(client: httpx.Client, path: str, *symbols: str) -> None:
    """Observe one event for each symbol."""
    for symbol in symbols:
        client.post(f"{path}/observe", json={"strings": [symbol]}).raise_for_status()


def learned(client: httpx.Client, path: str) -> str:
    """Learn what the STM holds; return the pattern's name."""
    name: str = client.post(f"{path}/learn").raise_for_status().json()["pattern_name"]
    return name


def first_prediction(client: httpx.Client, path: str) -> Json:
    """Return the best prediction."""
    best: Json = client.get(f"{path}/predictions").raise_for_status().json()["predictions"][0]
    return best


@pytest.mark.docker
@pytest.mark.timeout(300)
def test_from_nothing_to_a_first_session_and_back(installation: Installation) -> None:
    """compose-up serves sessions in containers, and kato-primary; compose-down leaves MongoDB's volume, no more."""
    greeting = installation.up()
    _the_printed_calls_work(installation, greeting)
    _only_we_can_read_what_was_made(installation)
    _only_loopback_is_listened_on(installation)
    with installation.gateway() as client:
        session = client.post("/sessions", json={"session_id": "s", "node_id": "shared"}).raise_for_status().json()
        observe(client, "/sessions/s", "a", "b", "c")
        assert learned(client, "/sessions/s") == ABC
        assert session["container_name"] in installation.nodes()
        assert httpx.get(f"{installation.service('gateway').url}/sessions").status_code == 401
    _the_node_can_be_called_directly(session)
    installation.make("compose-down")
    assert installation.left() == {"containers": [], "networks": [], "volumes": [f"{installation.name}_mongo"]}

    installation.up()  # the volume has everything
    with installation.gateway() as client:
        client.post("/sessions", json={"session_id": "t", "node_id": "shared"}).raise_for_status()
        observe(client, "/sessions/t", "a", "b")
        assert first_prediction(client, "/sessions/t")["name"] == ABC
    docker("kill", installation.service("gateway").id)
    assert installation.nodes()
    installation.make("compose-down")
    assert installation.left() == {"containers": [], "networks": [], "volumes": [f"{installation.name}_mongo"]}


def _the_printed_calls_work(installation: Installation, greeting: str) -> None:
    """What compose-up prints to try are commands that work: a session, and an observation of kato-primary."""
    commands = [line for line in greeting.splitlines() if line.startswith("  ")]
    assert [command.split()[0].partition("=")[0] for command in commands] == ["KEY", "curl", "TOKEN", "curl"]
    printed = installation.shell("; echo; ".join(command.replace("curl", "curl -s") for command in commands))
    session, observed = (json.loads(line) for line in printed.split("\n") if line)
    assert (session["user_id"], session["status"]) == ("admin", "active")
    assert (observed["processor_id"], observed["time"]) == ("kato-primary", 1)
    with installation.client("kato-primary", "none") as stranger:
        assert stranger.get("/stm").status_code == 401


def _only_we_can_read_what_was_made(installation: Installation) -> None:
    made = [installation.env_file, *installation.secrets.iterdir()]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert installation.secrets.stat().st_mode & 0o777 == 0o700


def _only_loopback_is_listened_on(installation: Installation) -> None:
    found = installation.containers().values()
    ports = [
        port for one in found for ports in one.inspect()["NetworkSettings"]["Ports"].values() for port in ports or ()
    ]
    assert ports
    assert {port["HostIp"] for port in ports} == {"127.0.0.1"}
    volumes = [mount["Name"] for one in found for mount in one.inspect()["Mounts"] if mount["Type"] == "volume"]
    assert volumes == [f"{installation.name}_mongo"]


def _the_node_can_be_called_directly(session: Mapping[str, str]) -> None:
    with httpx.Client(base_url=session["external_url"], timeout=PATIENCE_S) as client:
        assert client.get("/stm").status_code == 401
        headers = {"Authorization": f"Bearer {session['access_token']}"}
        assert client.get("/stm", headers=headers).json() == {"stm": [], "length": 0, **ids(session)}


def ids(session: Mapping[str, str]) -> dict[str, str]:
    """Return the ids that every reply of a session's has."""
    return {name: session[name] for name in ("processor_id", "session_id")}


@pytest.mark.docker
def test_compose_takes_the_file(installation: Installation) -> None:
    """The compose program that is there takes the file, with the settings of .env.example and whatever is needed."""
    installation.env_file.write_text(re.sub(r"=$", "=1", EXAMPLE, flags=re.MULTILINE))
    installation.shell(".ci/compose compose config --quiet")
    installation.env_file.unlink()


def test_settings_that_are_there_stay_and_what_is_needed_is_added(tmp_path: Path) -> None:
    """A copy of .env.example with changes is completed once, and made private; what the environment says is kept."""
    env_file = tmp_path / "env"
    env_file.write_text(EXAMPLE.replace("PRIMARY_ADDRESS=127.0.0.1:8001\n", ""))
    (tmp_path / "socket").touch()
    given = {"ENV_FILE": str(env_file), "DOCKER_SOCKET": str(tmp_path / "socket"), "PRIMARY_ADDRESS": "127.0.0.1:1"}
    written = []
    for _ in range(2):
        command = [str(ROOT / ".ci" / "compose"), "write_settings"]
        subprocess.run(command, env={"PATH": os.environ["PATH"], **given}, check=True)
        written.append(dict(re.findall(r"^(\w+)=(.+)$", env_file.read_text(), re.MULTILINE)))
    first, again = written
    assert first == again
    assert {"MONGO_ROOT_PASSWORD", "MONGO_PASSWORD", "CONTAINER_USER", "DOCKER_GID"} <= first.keys()
    assert (first["PRIMARY_ADDRESS"], first["GATEWAY_ADDRESS"]) == ("127.0.0.1:1", "127.0.0.1:8000")
    assert env_file.stat().st_mode & 0o777 == 0o600


def test_a_service_without_a_container_is_not_healthy(tmp_path: Path) -> None:
    """compose-up does not take a service for healthy whose container is gone before it was."""
    for name, script in {"docker": "false", "docker-compose": "true"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ENV_FILE": str(tmp_path / "env")}
    command = [".ci/compose", "wait_until_healthy"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "mongo has no container any more.\n")


def test_the_example_has_every_variable_and_its_default() -> None:
    """.env.example names every variable of the compose file and no other, with the default that it has there."""
    found = re.findall(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", COMPOSE)
    used: dict[str, str] = {}
    for name, default in found:
        used[name] = used.get(name) or default
    example = dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert example.pop("COMPOSE_PROJECT_NAME") == "kato"  # compose's own
    assert example.pop("CONTAINER_USER") == "10001:10001"
    del used["CONTAINER_USER"]
    assert example == used


def test_the_image_is_of_this_version() -> None:
    """The compose file and its example run the image of this version."""
    image = f"kato-platform:{kato_node.__version__}"
    assert set(re.findall(r"kato-platform:[\d.]+", COMPOSE + EXAMPLE)) == {image}

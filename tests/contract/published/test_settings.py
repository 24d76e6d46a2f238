"""Each setting does what it says: a service that is started with it shows it, and a bad value stops the start."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from kato_gateway import settings as gateway_settings
from kato_node import settings as node_settings
from kato_node.domain.config import DEFAULT
from kato_node.wire.tokens import node_secret
from tests.e2e.gateway_process import eventually, gateway

ROOT = Path(__file__).resolve().parents[3]
SECRET = "a-secret-of-more-than-sixteen-characters"
# A value of each configuration name that is not its default.
CONFIGURATION = {
    "MAX_PATTERN_LENGTH": "7",
    "STM_MODE": "ROLLING",
    "PERSISTENCE": "9",
    "RECALL_THRESHOLD": "0.25",
    "MAX_PREDICTIONS": "11",
    "MIN_PREDICTION_SYMBOLS": "1",
    "RANK_SORT_ALGO": "similarity",
    "SORT_SYMBOLS": "false",
    "VECTOR_NEIGHBORS": "3",
    "VECTOR_DISTANCE_MAX": "2.5",
    "PROCESS_PREDICTIONS": "false",
    "SMOOTHNESS": "4",
    "QUIESCENCE": "5",
}
BAD_CONFIGURATION = {
    "MAX_PATTERN_LENGTH": "-1",
    "STM_MODE": "rolling",
    "PERSISTENCE": "101",
    "RECALL_THRESHOLD": "1.1",
    "MAX_PREDICTIONS": "0",
    "MIN_PREDICTION_SYMBOLS": "3",
    "RANK_SORT_ALGO": "name",
    "SORT_SYMBOLS": "1",
    "VECTOR_NEIGHBORS": "101",
    "VECTOR_DISTANCE_MAX": "0",
    "PROCESS_PREDICTIONS": "yes",
    "SMOOTHNESS": "11",
    "QUIESCENCE": "101",
}
# A value that no service takes, of each setting; None: any text will do.
BAD_AT_A_NODE: dict[str, str | None] = {
    "DEPLOYMENT_SECRET_FILE": "/nowhere/secret",
    "HOST": None,  # judged by the system when the node listens
    "IDLE_TIMEOUT_S": "-1",
    "KATO_HOME": "~nobody-of-this-name/kato",
    "LOG_LEVEL": "LOUD",
    "MONGO_DATABASE": "a/b",
    "MONGO_URL": "http://x",
    "NODE_ID": "a b",
    "NODE_POOL": "maybe",
    "NODE_SECRET": "too-short",
    "PORT": "65536",
    "PROCESSOR_ID": "../x",
    "PROCESSOR_NAME": None,
    "REQUIRE_TOKEN": "maybe",
}
BAD_AT_A_GATEWAY: dict[str, str | None] = {
    "API_KEYS": "no-name",
    "API_KEYS_FILE": "/nowhere/keys",
    "DEPLOYMENT_SECRET_FILE": None,  # judged when the folder is opened
    "GATEWAY_HOST": "192.0.2.1",
    "GATEWAY_PORT": "65536",
    "IDLE_TIMEOUT_S": "-1",
    "KATO_HOME": "~nobody-of-this-name/kato",
    "LOG_LEVEL": "LOUD",
    "MONGO_DATABASE": "a/b",
    "MONGO_URL": "http://x",
    "NODE_CPUS_MAX": "0",
    "NODE_IMAGE": "Not An Image",
    "NODE_MEMORY_MAX": "0",
    "NODE_MONGO_URL": "mongodb://db",  # without MONGO_URL
    "NODE_NETWORK": "-x",
    "RUNTIME": "podman",
    "SESSION_TTL_S": "0",
    "WARM_POOL_SIZE": "901",
}
Read = Callable[[Mapping[str, str]], object]


def documented(kind: str) -> set[str]:
    """Return the names in docs/operations.md's table of one service's settings."""
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return set(module.settings_of({"node": node_settings, "gateway": gateway_settings}[kind]))


@pytest.mark.parametrize(("kind", "bad"), [("node", BAD_AT_A_NODE), ("gateway", BAD_AT_A_GATEWAY)])
def test_every_setting_is_judged(kind: str, bad: Mapping[str, str | None]) -> None:
    """Each setting of the documented table, set to what it cannot be, is refused in one line that names it."""
    assert set(bad) == documented(kind)
    required = {"PROCESSOR_ID": "p"} if kind == "node" else {}
    for name, value in bad.items():
        if value is not None:
            refused(kind, {**required, name: value}, name)


def test_every_configuration_name_is_judged() -> None:
    """Each configuration name in capitals, set to what it cannot be, is refused in one line that names it."""
    assert {name.lower() for name in BAD_CONFIGURATION} == set(DEFAULT.as_dict())
    for name, value in BAD_CONFIGURATION.items():
        refused("node", {"PROCESSOR_ID": "p", name: value}, name)


def refused(kind: str, environment: Mapping[str, str], name: str) -> None:
    """The service would not start with this environment, and says why in one line."""
    errors = {"node": node_settings.SettingsError, "gateway": gateway_settings.SettingsError}
    read: dict[str, Read] = {"node": node_settings.from_environment, "gateway": gateway_settings.from_environment}
    with pytest.raises(errors[kind]) as refusal:
        read[kind](environment)
    assert str(refusal.value).startswith(f"{name}: "), str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("module", ["kato_node", "kato_gateway"])
def test_a_bad_start_is_one_line_and_exit_status_2(module: str, tmp_path: Path) -> None:
    """A service with a setting that nobody knows does not start: one line on stderr, exit status 2."""
    environment = {**_inherited(), "PROCESSOR_ID": "p", "KATO_HOME": str(tmp_path), "KATO_SPEED": "1"}
    done = subprocess.run([sys.executable, "-m", module], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "KATO_SPEED" in done.stderr


def test_a_node_does_what_its_settings_say(tmp_path: Path) -> None:
    """A node has the address, ids, name, folder, secret, log level and configuration that it is given."""
    (tmp_path / "secret").write_text(SECRET)
    port = _free_port()
    settings = {
        "PROCESSOR_ID": "mine",
        "PROCESSOR_NAME": "My own",
        "NODE_ID": "node-of-mine",
        "KATO_HOME": str(tmp_path / "home"),
        "HOST": "127.0.0.2",
        "PORT": str(port),
        "LOG_LEVEL": "WARNING",
        "DEPLOYMENT_SECRET_FILE": str(tmp_path / "secret"),
        **CONFIGURATION,
    }
    command = [sys.executable, "-m", "kato_node"]
    with subprocess.Popen(command, env={**_inherited(), **settings}, stderr=subprocess.PIPE, text=True) as node:
        try:
            with httpx.Client(base_url=f"http://127.0.0.2:{port}", timeout=60) as client:
                eventually(lambda: _answers(client), "an answer at HOST and PORT")
                status = client.get("/status").json()
                assert (status["processor_id"], status["processor_name"]) == ("mine", "My own")
                secret = {"X-Kato-Secret": node_secret(SECRET, "node-of-mine")}
                assert client.get("/control/identity", headers=secret).json()["node_id"] == "node-of-mine"
                assert_configured(client.get("/genes").json()["genes"])
            assert (tmp_path / "home" / "processors" / "mine.sqlite").exists()
        finally:
            node.terminate()
        assert node.wait() == 0
        assert node.stderr is not None
        assert node.stderr.read() == ""


def test_an_idle_node_ends(tmp_path: Path) -> None:
    """A node with IDLE_TIMEOUT_S ends by itself, exit status 0."""
    settings = {"PROCESSOR_ID": "p", "KATO_HOME": str(tmp_path), "PORT": "0", "IDLE_TIMEOUT_S": "0.2"}
    done = subprocess.run(
        [sys.executable, "-m", "kato_node"], env={**_inherited(), **settings}, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert json.loads(done.stderr.splitlines()[-1])["reason"] == "idle"


def test_a_gateway_does_what_its_settings_say(tmp_path: Path) -> None:
    """A gateway has the address, pool, times to live, log level, secret and configuration that it is given."""
    (tmp_path / "secret").write_text(SECRET)
    port = _free_port()
    settings = {
        "GATEWAY_HOST": "127.0.0.3",
        "GATEWAY_PORT": str(port),
        "RUNTIME": "process",
        "WARM_POOL_SIZE": "3",
        "SESSION_TTL_S": "77",
        "LOG_LEVEL": "WARNING",
        "DEPLOYMENT_SECRET_FILE": str(tmp_path / "secret"),
        "NODE_MEMORY_MAX": "256m",
        "NODE_CPUS_MAX": "0.5",
        **CONFIGURATION,
    }
    with gateway(tmp_path / "home", **settings) as running:
        assert running.url == f"http://127.0.0.3:{port}"
        eventually(lambda: len(running.nodes()) == 3, "a pool of three")
        assert running.ask("GET", "/status")["runtime"] == "process"
        session = running.ask("POST", "/sessions")
        assert session["ttl_seconds"] == 77
        assert_configured(session["session_config"])
        node_id = running.ask("GET", f"/nodes/{session['processor_id']}")["node_id"]
        secret = {"X-Kato-Secret": node_secret(SECRET, node_id)}
        identity = httpx.get(session["external_url"] + "/control/identity", headers=secret)
        assert identity.json()["processor_id"] == session["processor_id"]
        assert not (tmp_path / "home" / "secret").exists()
    for name in ("NODE_MEMORY_MAX", "NODE_CPUS_MAX"):
        assert f'"event": "limit_not_enforced", "setting": "{name}"' in running.log
    assert '"level": "INFO"' not in running.log


def assert_configured(genes: Mapping[str, Any]) -> None:
    """Every configuration value is the one of CONFIGURATION, and none is its default."""
    texts = {name.upper(): value if isinstance(value, str) else json.dumps(value) for name, value in genes.items()}
    assert texts == CONFIGURATION
    assert not {name for name, value in genes.items() if value == DEFAULT.as_dict()[name]}


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False

"""The gateway's settings: what the environment means, and what stops the start."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from kato_gateway.settings import CONFIG_NAMES, Settings, SettingsError, from_environment
from kato_node.domain.config import Config


def test_nothing_needs_to_be_set() -> None:
    """An empty environment is a gateway on 127.0.0.1:8000 with its home in ~/.kato."""
    settings = from_environment({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.home == Path("~/.kato").expanduser()
    assert (settings.idle_timeout_s, settings.session_ttl_s) == (900.0, 3600.0)
    assert settings.warm_pool_size > 0


def test_empty_is_unset_and_foreign_names_are_not_looked_at() -> None:
    """A variable that is set to nothing counts as not set; other programs' variables do not matter."""
    empty = dict.fromkeys(["GATEWAY_PORT", "MONGO_URL", "API_KEYS", "RUNTIME", "PERSISTENCE", "KATO_HOME"], "")
    assert from_environment({**empty, "PATH": "/bin", "HOST": "0.0.0.0"}) == from_environment({})


def test_every_setting_is_read() -> None:
    """Each variable reaches its setting."""
    settings = from_environment(
        {
            "KATO_HOME": "/somewhere",
            "GATEWAY_HOST": "::1",
            "GATEWAY_PORT": "0",
            "RUNTIME": "docker",
            "MONGO_URL": "mongodb://localhost/?replicaSet=rs",
            "MONGO_DATABASE": "other",
            "NODE_MONGO_URL": "mongodb://db.internal:27017/?replicaSet=rs",
            "NODE_IMAGE": "registry.example:5000/kato@sha256:0",
            "NODE_NETWORK": "kato_net",
            "WARM_POOL_SIZE": "0",
            "IDLE_TIMEOUT_S": "0",
            "SESSION_TTL_S": "1.5",
            "LOG_LEVEL": "debug",
            "NODE_MEMORY_MAX": "256m",
            "NODE_CPUS_MAX": ".5",
            "DEPLOYMENT_SECRET_FILE": "/run/secret",
            "STM_MODE": "ROLLING",
        }
    )
    assert settings == Settings(
        home=Path("/somewhere"),
        host="::1",
        port=0,
        warm_pool_size=0,
        idle_timeout_s=0.0,
        session_ttl_s=1.5,
        log_level="DEBUG",
        terminal_log_level="DEBUG",
        runtime="docker",
        mongo_url="mongodb://localhost/?replicaSet=rs",
        mongo_database="other",
        node_mongo_url="mongodb://db.internal:27017/?replicaSet=rs",
        node_image="registry.example:5000/kato@sha256:0",
        node_network="kato_net",
        node_memory_max_bytes=256 * 2**20,
        node_cpus_max=0.5,
        secret_file=Path("/run/secret"),
        config={"STM_MODE": "ROLLING"},
    )


def test_every_config_name_is_passed_on() -> None:
    """The names that are handed to nodes are those that a node knows."""
    assert {name.lower() for name in CONFIG_NAMES} == {field.name for field in fields(Config)}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_loopback_is_served(host: str) -> None:
    """Any address of this machine's own may be served."""
    assert from_environment({"GATEWAY_HOST": host}).host in {host, "127.0.0.1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_HOST", "0.0.0.0"),
        ("GATEWAY_HOST", "::"),
        ("GATEWAY_HOST", "192.168.1.5"),
        ("GATEWAY_HOST", "example.com"),
        ("API_KEYS", "alice"),
        ("API_KEYS", "alice:too-short-secret"[:-8]),
        ("API_KEYS", "alice:a secret with spaces in it"),
        ("API_KEYS", ":a-secret-without-a-name"),
        ("API_KEYS", "al/ice:a-secret-of-nobody"),
        ("API_KEYS", "alice:the-same-secret-twice,bob:the-same-secret-twice"),
        ("API_KEYS", "alice:the-same-secret-twice,"),
        ("API_KEYS", ","),
        ("GATEWAY_PORT", "65536"),
        ("GATEWAY_PORT", "-1"),
        ("GATEWAY_PORT", "8000.0"),
        ("GATEWAY_PORT", "٣"),
        ("RUNTIME", "docker"),
        ("RUNTIME", "podman"),
        ("WARM_POOL_SIZE", "901"),
        ("IDLE_TIMEOUT_S", "-1"),
        ("IDLE_TIMEOUT_S", "nan"),
        ("IDLE_TIMEOUT_S", "1e3"),
        ("SESSION_TTL_S", "0"),
        ("LOG_LEVEL", "LOUD"),
        ("NODE_MEMORY_MAX", "0"),
        ("NODE_MEMORY_MAX", "1.5g"),
        ("NODE_CPUS_MAX", "0"),
        ("MONGO_URL", "localhost:27017"),
        ("MONGO_URL", "mongodb://"),
        ("MONGO_URL", "mongodb://ann:a-secret/with-a-slash@db"),
        ("MONGO_URL", "mongodb://ann:a-secret with blanks@db"),
        ("MONGO_DATABASE", "a.b"),
        ("NODE_MONGO_URL", "mongodb://db"),
        ("NODE_IMAGE", "Kato"),
        ("NODE_NETWORK", "a b"),
        ("API_KEYS_FILE", "/no/such/file"),
        ("API_KEYS_FILE", "/"),
        ("KATO_HOME", "~nobody-of-this-name/kato"),
        ("KATO_PORT", "8000"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(name: str, value: str) -> None:
    """A bad value, one that lacks another and an unknown KATO_ name stop the start with a line that names it."""
    with pytest.raises(SettingsError) as refusal:
        from_environment({name: value})
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


ANN, BOB, CAT = "ann-s-first-key-0", "ann-s-other-key-1", "bob-s-only-key-23"


def test_keys_are_read_from_the_environment() -> None:
    """API_KEYS holds name:key, comma separated; an owner may have several keys, to replace one by the next."""
    keys = from_environment({"API_KEYS": f"ann:{ANN}, ann:{BOB},bob:{CAT}"}).keys
    assert [keys.owner_of(key.encode()) for key in (ANN, BOB, CAT, "", "ann", ANN + "x")] == [
        *("ann", "ann", "bob"),
        *(None, None, None),
    ]


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    """API_KEYS_FILE holds one name:key a line; empty lines and those that begin with # do not count."""
    path = tmp_path / "keys"
    path.write_text(f"# who may\n\nann:{ANN}\n  # bob:{BOB}\nbob:{CAT}\n")
    keys = from_environment({"API_KEYS_FILE": str(path)}).keys
    assert [keys.owner_of(key.encode()) for key in (ANN, BOB, CAT)] == ["ann", None, "bob"]


@pytest.mark.parametrize("text", ["", "# nobody\n", "ann\n", f"ann:{ANN}\nbob:{ANN}\n", f"ann:{ANN}\nключ\n"])
def test_a_file_without_good_keys_stops_the_start(tmp_path: Path, text: str) -> None:
    """A file that was named is meant to have keys: one that has none, or a bad one, opens nothing to anybody."""
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(SettingsError, match="API_KEYS_FILE") as refusal:
        from_environment({"API_KEYS_FILE": str(path)})
    assert ANN not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_keys_come_from_one_place() -> None:
    """Both variables at once are refused: which of them was meant cannot be told."""
    with pytest.raises(SettingsError, match="set one of them"):
        from_environment({"API_KEYS": f"ann:{ANN}", "API_KEYS_FILE": "/keys"})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "127.0.0.1"])
def test_with_keys_any_address_may_be_served(host: str) -> None:
    """Other machines may call once each call needs a key."""
    assert from_environment({"GATEWAY_HOST": host, "API_KEYS": f"ann:{ANN}"}).host == host


def test_settings_print_no_key() -> None:
    """The settings hold no key to print, only its hash, and no URL with a password in it."""
    url = f"mongodb://ann:{BOB}@db"
    printed = repr(from_environment({"API_KEYS": f"ann:{ANN}", "MONGO_URL": url, "NODE_MONGO_URL": url}))
    assert ANN not in printed
    assert BOB not in printed


LOOPBACK = ["localhost", "127.0.0.1:27017", "[::1]:27017", "LOCALHOST:1", "db,127.1.2.3", "%2Ftmp%2Fmongodb.sock"]
REMOTE = ["db", "db:27017", "10.0.0.1,10.0.0.2:1", "[2001:db8::1]:27017", "localhost.example", "127.0.0.1.example"]


@pytest.mark.parametrize("where", LOOPBACK)
def test_containers_do_not_reach_this_machines_loopback(where: str) -> None:
    """RUNTIME=docker asks for an address of MongoDB that containers reach; for other runtimes any will do."""
    url = f"mongodb://ann:{ANN}@{where}/?replicaSet=rs"
    for settings, name in (
        ({"MONGO_URL": url}, "MONGO_URL"),
        ({"MONGO_URL": "mongodb://db", "NODE_MONGO_URL": url}, "NODE_MONGO_URL"),
    ):
        with pytest.raises(SettingsError, match=f"^{name}: ") as refusal:
            from_environment({"RUNTIME": "docker", **settings})
        assert ANN not in str(refusal.value)
        for runtime in ("auto", "process"):
            from_environment({"RUNTIME": runtime, **settings})
    settings = {"RUNTIME": "docker", "MONGO_URL": url, "NODE_MONGO_URL": "mongodb://db"}
    assert from_environment(settings).node_mongo_url == "mongodb://db"


@pytest.mark.parametrize("where", REMOTE)
def test_containers_reach_other_addresses(where: str) -> None:
    """Any other host of MongoDB serves containers."""
    assert (
        from_environment({"RUNTIME": "docker", "MONGO_URL": f"mongodb://{where}/x?replicaSet=rs"}).runtime == "docker"
    )


def test_docker_needs_mongodb() -> None:
    """RUNTIME=docker without MONGO_URL is refused in one line that names both."""
    with pytest.raises(SettingsError, match=r"^RUNTIME: docker needs MONGO_URL") as refusal:
        from_environment({"RUNTIME": "docker"})
    assert "\n" not in str(refusal.value)

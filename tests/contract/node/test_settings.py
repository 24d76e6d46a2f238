"""The node's settings (api.md, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kato_node.domain.config import DEFAULT
from kato_node.settings import SettingsError, from_environment
from kato_node.wire.tokens import node_secret, token_key

BAD: list[tuple[Mapping[str, str], str]] = [
    ({}, "PROCESSOR_ID"),
    ({"PROCESSOR_ID": ""}, "PROCESSOR_ID"),
    ({"PROCESSOR_ID": "../escape"}, "PROCESSOR_ID"),
    ({"PROCESSOR_ID": "p\n"}, "PROCESSOR_ID"),
    ({"PROCESSOR_ID": "p", "KATO_HOMES": "/x"}, "KATO_HOMES"),
    ({"PROCESSOR_ID": "p", "PORT": "65536"}, "PORT"),
    ({"PROCESSOR_ID": "p", "PORT": "8_000"}, "PORT"),
    ({"PROCESSOR_ID": "p", "LOG_LEVEL": "LOUD"}, "LOG_LEVEL"),
    ({"PROCESSOR_ID": "p", "IDLE_TIMEOUT_S": "-1"}, "IDLE_TIMEOUT_S"),
    ({"PROCESSOR_ID": "p", "IDLE_TIMEOUT_S": "nan"}, "IDLE_TIMEOUT_S"),
    ({"PROCESSOR_ID": "p", "RECALL_THRESHOLD": "2"}, "RECALL_THRESHOLD"),
    ({"PROCESSOR_ID": "p", "SORT_SYMBOLS": "yes"}, "SORT_SYMBOLS"),
    ({"PROCESSOR_ID": "p", "PERSISTENCE": "5.0"}, "PERSISTENCE"),
    ({"PROCESSOR_ID": "p", "MONGO_URL": "http://x"}, "MONGO_URL"),
    *(({"PROCESSOR_ID": "p", "MONGO_DATABASE": bad}, "MONGO_DATABASE") for bad in ("a.b", "admin", "Local", "config")),
    ({"PROCESSOR_ID": "p", "NODE_POOL": "yes"}, "NODE_POOL"),
    ({"PROCESSOR_ID": "p", "NODE_POOL": "1"}, "PROCESSOR_ID"),
    ({"PROCESSOR_ID": "p", "DEPLOYMENT_SECRET_FILE": "/nowhere/secret"}, "DEPLOYMENT_SECRET_FILE"),
    ({"PROCESSOR_ID": "p", "REQUIRE_TOKEN": "yes"}, "REQUIRE_TOKEN"),
    ({"PROCESSOR_ID": "p", "REQUIRE_TOKEN": "true"}, "REQUIRE_TOKEN"),
    ({"PROCESSOR_ID": "p", "REQUIRE_TOKEN": "true", "NODE_SECRET": "sixteen-of-these"}, "REQUIRE_TOKEN"),
    *(
        ({"NODE_POOL": "1", "NODE_SECRET": bad}, "NODE_SECRET")
        for bad in ("too-short", "with a blank in it", "x" * 257)
    ),
    (
        {"NODE_POOL": "1", "NODE_SECRET": "sixteen-of-these", "DEPLOYMENT_SECRET_FILE": __file__},
        "NODE_SECRET",
    ),
]


@pytest.mark.parametrize(("environment", "name"), BAD, ids=[f"{name}-{given}" for given, name in BAD])
def test_a_bad_setting_is_named_in_one_line(environment: Mapping[str, str], name: str) -> None:
    """A bad value, a missing or an unknown name is one line that begins with the name."""
    with pytest.raises(SettingsError) as error:
        from_environment(environment)
    assert str(error.value).startswith(f"{name}: ")
    assert len(str(error.value).splitlines()) == 1


def test_an_empty_value_is_unset() -> None:
    """Empty variables, and those that are not ours, change nothing."""
    settings = from_environment({"PROCESSOR_ID": "p", "PORT": "", "KATO_HOME": "", "STM_MODE": "", "EDITOR": "vi"})
    assert (settings.port, settings.host, settings.defaults) == (8000, "127.0.0.1", DEFAULT)
    assert settings.home == Path("~/.kato").expanduser()
    assert (settings.processor_id, settings.processor_name) == ("p", "p")
    assert settings.node_secret is settings.token_key is None


def test_every_setting_is_read(tmp_path: Path) -> None:
    """Each of the node's settings arrives, the config names in capitals included."""
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    settings = from_environment(
        {
            "PROCESSOR_ID": "p:1",
            "PROCESSOR_NAME": "First of all",
            "NODE_ID": "n-1",
            "MONGO_URL": "mongodb://db/?replicaSet=rs",
            "MONGO_DATABASE": "other",
            "KATO_HOME": str(tmp_path),
            "HOST": "::1",
            "PORT": "0",
            "LOG_LEVEL": "debug",
            "IDLE_TIMEOUT_S": "1.5",
            "DEPLOYMENT_SECRET_FILE": str(secret),
            "REQUIRE_TOKEN": "true",
            "RECALL_THRESHOLD": "0",
            "SORT_SYMBOLS": "false",
        }
    )
    assert (settings.processor_id, settings.processor_name, settings.node_id) == ("p:1", "First of all", "n-1")
    assert (settings.mongo_url, settings.mongo_database) == ("mongodb://db/?replicaSet=rs", "other")
    assert (settings.home, settings.host, settings.port) == (tmp_path, "::1", 0)
    assert (settings.log_level, settings.idle_timeout_s) == ("DEBUG", 1.5)
    assert settings.node_secret == node_secret("hush", "n-1")
    assert settings.token_key == token_key("hush", "p:1")
    assert settings.require_token
    for hidden in ("hush", settings.node_secret, settings.token_key):
        assert hidden not in repr(settings)
    assert (settings.defaults.recall_threshold, settings.defaults.sort_symbols) == (0.0, False)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "kato-node")),
    ],
)
def test_a_node_knows_whether_only_this_machine_reaches_it(host: str, loopback: bool) -> None:
    """Loopback's own addresses and name are this machine's alone; any other host may be reached from elsewhere."""
    assert from_environment({"PROCESSOR_ID": "p", "HOST": host}).host_is_loopback is loopback


def test_a_pool_node_has_no_processor() -> None:
    """--pool and NODE_POOL=1 both mean: bound later; the node id is fresh each time unless it is given."""
    by_flag, by_name = from_environment({}, pool=True), from_environment({"NODE_POOL": "1"})
    assert by_flag.processor_id is by_name.processor_id is None
    assert by_flag.node_id != by_name.node_id


def test_a_pool_node_has_the_secret_that_it_is_given() -> None:
    """NODE_SECRET is what control calls need, and in nothing that is printed; it says nothing of any token."""
    settings = from_environment({"NODE_POOL": "1", "NODE_SECRET": "sixteen-of-these", "REQUIRE_TOKEN": "true"})
    assert (settings.node_secret, settings.token_key) == ("sixteen-of-these", None)
    assert "sixteen-of-these" not in repr(settings)

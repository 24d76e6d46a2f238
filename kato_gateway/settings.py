"""The gateway's settings (api.md, section 6): the only reader of its environment. An empty variable is unset."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import kato_node
from kato_gateway.domain.owners import NO_KEYS, BadKeys, KeyTable, key_table
from kato_node.wire.logs import LEVELS

# The config of processor.md, section 8, in capitals: the nodes' defaults, which the nodes' own settings check.
CONFIG_NAMES = (
    "MAX_PATTERN_LENGTH",
    "STM_MODE",
    "PERSISTENCE",
    "RECALL_THRESHOLD",
    "MAX_PREDICTIONS",
    "MIN_PREDICTION_SYMBOLS",
    "RANK_SORT_ALGO",
    "SORT_SYMBOLS",
    "VECTOR_NEIGHBORS",
    "VECTOR_DISTANCE_MAX",
    "PROCESS_PREDICTIONS",
    "SMOOTHNESS",
    "QUIESCENCE",
)

_KNOWN_KATO_NAMES = ("KATO_HOME",)
_POOL_MAX = 900
_DURATION_MAX_S = 10 * 365 * 86_400.0
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^\s/@?:,\[\]]+)(?::[0-9]{1,5})?"
_MONGO_URL = re.compile(rf"mongodb(?:\+srv)?://(?:[^\s/@]*@)?({_HOST}(?:,{_HOST})*)(?:[/?][^\s@]*)?")
_DATABASE = r"[A-Za-z0-9_-]{1,63}"
_IMAGE = r"[a-z0-9][A-Za-z0-9._/:@-]{0,255}"
_NETWORK = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"

RuntimeName: TypeAlias = Literal["auto", "process", "docker"]


class SettingsError(Exception):
    """A variable that cannot be used; the text is one line that names it and says what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the gateway is to be.

    Attributes:
        host: an address, loopback's unless there are keys; port: 0 for one of the system's choice.
        home: the folder that holds everything this installation keeps.
        warm_pool_size: booted nodes kept ready for new sessions.
        idle_timeout_s: after which a node without operations stops itself; 0: never.
        mongo_url: of the MongoDB that keeps everything; None: it is kept in files under `home`.
        node_mongo_url: where containers reach it, if that is not `mongo_url`.
        node_image, node_network: of containers; network None: one of this installation's own.
        node_memory_max_bytes, node_cpus_max: limits of each node, None: the runtime's usual ones.
        config: the nodes' defaults, as text, by their names in capitals.
        log_level: of the gateway and its nodes; terminal_log_level: of what the gateway shows on a terminal.
        keys: one of which every request needs; none: whoever reaches us may call. keys_file: where they are from.
        secret_file: the deployment's secret; None: the home's own, made when missing.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 8000
    warm_pool_size: int = 4
    idle_timeout_s: float = 900.0
    session_ttl_s: float = 3600.0
    log_level: str = "INFO"
    terminal_log_level: str = "WARNING"  # a line for each request would bury what is said to people
    runtime: RuntimeName = "auto"
    mongo_url: str | None = field(default=None, repr=False)  # either holds a password, as a rule
    mongo_database: str = "kato"
    node_mongo_url: str | None = field(default=None, repr=False)
    node_image: str = f"kato-platform:{kato_node.__version__}"
    node_network: str | None = None
    node_memory_max_bytes: int | None = None
    node_cpus_max: float | None = None
    secret_file: Path | None = None
    keys: KeyTable = NO_KEYS
    keys_file: Path | None = None
    config: Mapping[str, str] = field(default_factory=dict)


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings that the environment asks for. Raises: SettingsError, with one line."""
    _refuse_unknown(environment)
    read, default = _Reader(environment), Settings(home=Path())
    runtime = _runtime(read.text("RUNTIME", default.runtime))
    mongo_url, node_mongo_url = read.mongo_url("MONGO_URL"), read.mongo_url("NODE_MONGO_URL")
    _check_storage(runtime, mongo_url, node_mongo_url)
    secret_file = read.text("DEPLOYMENT_SECRET_FILE", "")
    keys_file = read.text("API_KEYS_FILE", "")
    keys = _keys(read.text("API_KEYS", ""), keys_file)
    return Settings(
        home=_path("KATO_HOME", read.text("KATO_HOME", "~/.kato")),
        host=_host(read.text("GATEWAY_HOST", default.host), keys),
        port=read.integer("GATEWAY_PORT", default.port, low=0, high=65_535),
        warm_pool_size=read.integer("WARM_POOL_SIZE", default.warm_pool_size, low=0, high=_POOL_MAX),
        idle_timeout_s=read.number("IDLE_TIMEOUT_S", default.idle_timeout_s, high=_DURATION_MAX_S),
        session_ttl_s=read.number("SESSION_TTL_S", default.session_ttl_s, high=_DURATION_MAX_S, above_zero=True),
        log_level=_log_level(read.text("LOG_LEVEL", default.log_level)),
        terminal_log_level=_log_level(read.text("LOG_LEVEL", default.terminal_log_level)),
        runtime=runtime,
        mongo_url=mongo_url,
        mongo_database=read.matching("MONGO_DATABASE", _DATABASE, default.mongo_database),
        node_mongo_url=node_mongo_url,
        node_image=read.matching("NODE_IMAGE", _IMAGE, default.node_image),
        node_network=read.matching("NODE_NETWORK", _NETWORK, "") or None,
        node_memory_max_bytes=_memory(read.text("NODE_MEMORY_MAX", "")),
        node_cpus_max=read.number("NODE_CPUS_MAX", 0.0, high=1024.0, above_zero=True) or None,
        secret_file=_path("DEPLOYMENT_SECRET_FILE", secret_file) if secret_file else None,
        keys=keys,
        keys_file=_path("API_KEYS_FILE", keys_file) if keys_file else None,
        config={name: environment[name] for name in CONFIG_NAMES if environment.get(name)},
    )


class _Reader:
    """Reads variables by kind."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str, default: str) -> str:
        return self._environment.get(name) or default

    def matching(self, name: str, pattern: str, default: str) -> str:
        """Return a text that matches the pattern as a whole; the default need not."""
        text = self._environment.get(name)
        if text and not re.fullmatch(pattern, text):
            raise SettingsError(f"{name}: must match {pattern}, not {text!r}")
        return text or default

    def mongo_url(self, name: str) -> str | None:
        """Return a URL of MongoDB; what is wrong with one is said without a word of it: it may hold a password."""
        text = self._environment.get(name) or None
        if text is not None and not _MONGO_URL.fullmatch(text):
            raise SettingsError(f"{name}: must be such as mongodb://USER:PASSWORD@HOST:27017/?replicaSet=rs0")
        return text

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        text = self.text(name, str(default))
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise SettingsError(f"{name}: must be an integer from {low} to {high}, not {text!r}")
        return int(text)

    def number(self, name: str, default: float, *, high: float, above_zero: bool = False) -> float:
        """Return a number from 0 to `high`; `above_zero` refuses a 0 that was set, the default may be one."""
        text = self._environment.get(name)
        if not text:
            return default
        value = float(text) if re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", text) else math.nan
        if not 0 <= value <= high or (above_zero and not value):
            low = "above 0" if above_zero else "from 0"
            raise SettingsError(f"{name}: must be a number {low} to {high:g}, not {text!r}")
        return value


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    for name in sorted(environment):
        if name.startswith("KATO_") and name not in _KNOWN_KATO_NAMES:
            raise SettingsError(f"{name}: there is no such setting; known with this prefix: {_KNOWN_KATO_NAMES[0]}")


def _runtime(text: str) -> RuntimeName:
    match text:
        case "auto" | "process" | "docker":
            return text
        case _:
            raise SettingsError(f"RUNTIME: must be auto, process or docker, not {text!r}")


def _check_storage(runtime: RuntimeName, mongo_url: str | None, node_mongo_url: str | None) -> None:
    """Refuse what no node could store in."""
    if mongo_url is None:
        if node_mongo_url is not None:
            raise SettingsError("NODE_MONGO_URL: says where nodes reach what MONGO_URL names, and that is not set")
        if runtime == "docker":
            raise SettingsError("RUNTIME: docker needs MONGO_URL, since containers cannot share an embedded database")
        return
    if runtime == "docker" and _names_loopback(node_mongo_url or mongo_url):
        name = "MONGO_URL" if node_mongo_url is None else "NODE_MONGO_URL"
        where = "NODE_MONGO_URL is for the address at which they do"
        raise SettingsError(f"{name}: names this machine's loopback, where containers do not reach MongoDB; {where}")


def _names_loopback(mongo_url: str) -> bool:
    """Whether one of the hosts is this machine's own loopback, or a socket in its file system."""
    hosts = _MONGO_URL.fullmatch(mongo_url)
    return hosts is not None and any(_is_loopback(host) for host in hosts[1].split(","))


def _is_loopback(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() in {"", "localhost"} or name.lower().endswith((".localhost", ".sock")):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _path(name: str, text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise SettingsError(f"{name}: {text!r} begins with no known user's folder") from error


def _host(text: str, keys: KeyTable) -> str:
    if text == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise SettingsError(f"GATEWAY_HOST: must be an IP address, such as 127.0.0.1, not {text!r}") from error
    if not keys and not address.is_loopback:
        raise SettingsError(f"GATEWAY_HOST: without API_KEYS it must be a loopback address, not {text!r}")
    return text


def _keys(text: str, file: str) -> KeyTable:
    """Return the keys of the one variable or of the file that the other one names."""
    if text and file:
        raise SettingsError("API_KEYS_FILE: API_KEYS is set, too; set one of them")
    if not text and not file:
        return NO_KEYS
    try:
        return key_table(text.split(",") if text else _key_lines(_path("API_KEYS_FILE", file)))
    except BadKeys as error:
        raise SettingsError(f"API_KEYS: {error}" if text else f"API_KEYS_FILE: {file}: {error}") from None


def _key_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text("ascii").splitlines()
    except OSError as error:
        raise SettingsError(f"API_KEYS_FILE: cannot read {path}: {error.strerror}") from error
    except ValueError:
        raise SettingsError(f"API_KEYS_FILE: {path} is not ASCII text") from None
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _log_level(text: str) -> str:
    if text.upper() not in LEVELS:
        raise SettingsError(f"LOG_LEVEL: must be one of {', '.join(LEVELS)}, not {text!r}")
    return text.upper()


def _memory(text: str) -> int | None:
    """Return the bytes that a text such as 256m or 1G means, None for none."""
    if not text:
        return None
    parts = re.fullmatch(r"([0-9]{1,15})([kmg]?)", text.lower())
    if parts is None or int(parts[1]) == 0:
        raise SettingsError(f"NODE_MEMORY_MAX: must be a number of bytes, or such as 256m or 1g, not {text!r}")
    return int(parts[1]) * _UNITS[parts[2]]

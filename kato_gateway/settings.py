"""The gateway's settings (api.md, section 6): the only reader of its environment. An empty variable is unset."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
_UNSUPPORTED = {
    "MONGO_URL": "MongoDB is not supported yet; unset it to keep everything under KATO_HOME",
}
_POOL_MAX = 900
_DURATION_MAX_S = 10 * 365 * 86_400.0
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


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
        node_memory_max_bytes, node_cpus_max: limits of each node, None for none.
        config: the nodes' defaults, as text, by their names in capitals.
        keys: one of which every request needs; none: whoever reaches us may call.
        secret_file: the deployment's secret; None: the home's own, made when missing.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 8000
    warm_pool_size: int = 4
    idle_timeout_s: float = 900.0
    session_ttl_s: float = 3600.0
    log_level: str = "INFO"
    node_memory_max_bytes: int | None = None
    node_cpus_max: float | None = None
    secret_file: Path | None = None
    keys: KeyTable = NO_KEYS
    config: Mapping[str, str] = field(default_factory=dict)


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings that the environment asks for. Raises: SettingsError, with one line."""
    _refuse_unknown(environment)
    read, default = _Reader(environment), Settings(home=Path())
    _check_runtime(read.text("RUNTIME", "auto"))
    secret_file = read.text("DEPLOYMENT_SECRET_FILE", "")
    keys = _keys(read.text("API_KEYS", ""), read.text("API_KEYS_FILE", ""))
    return Settings(
        home=_path("KATO_HOME", read.text("KATO_HOME", "~/.kato")),
        host=_host(read.text("GATEWAY_HOST", default.host), keys),
        port=read.integer("GATEWAY_PORT", default.port, low=0, high=65_535),
        warm_pool_size=read.integer("WARM_POOL_SIZE", default.warm_pool_size, low=0, high=_POOL_MAX),
        idle_timeout_s=read.number("IDLE_TIMEOUT_S", default.idle_timeout_s, high=_DURATION_MAX_S),
        session_ttl_s=read.number("SESSION_TTL_S", default.session_ttl_s, high=_DURATION_MAX_S, above_zero=True),
        log_level=_log_level(read.text("LOG_LEVEL", default.log_level)),
        node_memory_max_bytes=_memory(read.text("NODE_MEMORY_MAX", "")),
        node_cpus_max=read.number("NODE_CPUS_MAX", 0.0, high=1024.0, above_zero=True) or None,
        secret_file=_path("DEPLOYMENT_SECRET_FILE", secret_file) if secret_file else None,
        keys=keys,
        config={name: environment[name] for name in CONFIG_NAMES if environment.get(name)},
    )


class _Reader:
    """Reads variables by kind."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str, default: str) -> str:
        return self._environment.get(name) or default

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
    for name, reason in _UNSUPPORTED.items():
        if environment.get(name):
            raise SettingsError(f"{name}: {reason}")


def _check_runtime(text: str) -> None:
    if text == "docker":
        raise SettingsError("RUNTIME: docker is not available yet; use process, or auto")
    if text not in {"auto", "process"}:
        raise SettingsError(f"RUNTIME: must be auto or process, not {text!r}")


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

"""The node's settings, and the only reader of its environment (api.md, section 6).

A bad value, or an unknown name that begins with KATO_, is one line that names it. Empty is unset.
"""

from __future__ import annotations

import ipaddress
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kato_node.domain import config
from kato_node.domain.config import Config
from kato_node.domain.errors import ValidationFailed
from kato_node.domain.limits import LIMITS, Limits
from kato_node.wire.control import ID_PATTERN
from kato_node.wire.logs import LEVELS
from kato_node.wire.server import Heartbeat
from kato_node.wire.tokens import node_secret, token_key

_MIB = 1024 * 1024
DEFAULT_HOME = "~/.kato"
_FLAGS = {"1": True, "true": True, "0": False, "false": False}
_DATABASES_OF_MONGODB = frozenset({"admin", "config", "local"})
_KATO_NAMES = frozenset({"KATO_HOME"})


class SettingsError(Exception):
    """The environment does not describe a node; the text is one line that names the setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a node is started with.

    Attributes:
        processor_id: of a static node; None for a node of the pool, which is bound later.
        processor_name: the name for people; the processor's id unless PROCESSOR_NAME says otherwise.
        node_id: NODE_ID, or a fresh one.
        home: where the embedded store keeps its files; unused with `mongo_url`.
        idle_timeout_s: of a static node; 0 is never. A pool node is told at its bind.
        node_secret: proves a control call; None: there are no control routes.
        token_key: what the tokens of a static node's processor are issued under. A pool node is told at its bind.
        require_token: whether every operation needs a session's token (wire.tokens).
        defaults: the configuration of a session that sets nothing itself.
        body_bytes_max, ws_message_bytes_max, limits: api.md, section 5.
        line_bytes_max: of one line of an import, whose body has no limit.
        body_silence_max_s: a body of which nothing arrives for so long is given up.
        heartbeat: how peers of WebSockets that are gone are found out.
    """

    processor_id: str | None = None
    processor_name: str | None = None
    node_id: str = field(default_factory=lambda: secrets.token_hex(6))
    mongo_url: str | None = field(default=None, repr=False)
    mongo_database: str = "kato"
    home: Path = field(default_factory=lambda: _home(DEFAULT_HOME))
    host: str = "127.0.0.1"
    port: int = 8000
    log_level: str = "INFO"
    idle_timeout_s: float = 0.0
    node_secret: str | None = field(default=None, repr=False)
    token_key: str | None = field(default=None, repr=False)
    require_token: bool = False
    defaults: Config = config.DEFAULT
    limits: Limits = LIMITS
    body_bytes_max: int = 16 * _MIB
    ws_message_bytes_max: int = _MIB
    line_bytes_max: int = 64 * _MIB
    body_silence_max_s: float = 30.0
    heartbeat: Heartbeat = field(default_factory=Heartbeat)

    @property
    def host_is_loopback(self) -> bool:
        """Whether only this machine can reach the node."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def from_environment(environment: Mapping[str, str], *, pool: bool = False) -> Settings:
    """Return the settings that the environment asks for.

    Args:
        pool: start unbound, whatever NODE_POOL says.
    Raises: SettingsError, with one line.
    """
    given = {name: value for name, value in environment.items() if value}
    unknown = sorted(name for name in given if name.startswith("KATO_") and name not in _KATO_NAMES)
    if unknown:
        raise SettingsError(f"{unknown[0]}: there is no such setting; known is {', '.join(sorted(_KATO_NAMES))}")
    try:
        defaults = config.from_environment(given)
    except ValidationFailed as error:
        name, message = error.errors[0]
        raise SettingsError(f"{name}: {message}") from error
    read = _Reader(given)
    processor_id = read.processor_id(pool=pool)
    node_id = read.matching("NODE_ID", ID_PATTERN, default=secrets.token_hex(6))
    deployment_secret = read.secret("DEPLOYMENT_SECRET_FILE")
    require_token = read.flag("REQUIRE_TOKEN")
    if require_token and processor_id is not None and deployment_secret is None:
        raise SettingsError("REQUIRE_TOKEN: needs DEPLOYMENT_SECRET_FILE, from which the tokens' key is derived")
    return Settings(
        processor_id=processor_id,
        processor_name=given.get("PROCESSOR_NAME", processor_id),
        node_id=node_id,
        mongo_url=read.mongo_url(),
        mongo_database=read.mongo_database(),
        home=read.home(),
        host=given.get("HOST", "127.0.0.1"),
        port=read.port(),
        log_level=read.log_level(),
        idle_timeout_s=read.seconds("IDLE_TIMEOUT_S"),
        node_secret=read.node_secret(node_id, deployment_secret),
        token_key=deployment_secret and processor_id and token_key(deployment_secret, processor_id),
        require_token=require_token,
        defaults=defaults,
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads single settings; each method raises SettingsError for a bad value."""

    given: Mapping[str, str]

    def processor_id(self, *, pool: bool) -> str | None:
        in_pool = self.flag("NODE_POOL") or pool
        if in_pool and "PROCESSOR_ID" in self.given:
            raise SettingsError("PROCESSOR_ID: a node of the pool is bound later; leave it out")
        if not in_pool and "PROCESSOR_ID" not in self.given:
            raise SettingsError("PROCESSOR_ID: required, unless the node is started with --pool")
        return None if in_pool else self.matching("PROCESSOR_ID", ID_PATTERN, default="")

    def flag(self, name: str) -> bool:
        text = self.given.get(name, "0")
        if text not in _FLAGS:
            raise SettingsError(f"{name}: must be one of {', '.join(_FLAGS)}, not {text!r}")
        return _FLAGS[text]

    def matching(self, name: str, pattern: str, *, default: str) -> str:
        text = self.given.get(name, default)
        if not re.search(pattern, text) or text.endswith("\n"):
            raise SettingsError(f"{name}: must match {pattern}, not {text!r}")
        return text

    def home(self) -> Path:
        text = self.given.get("KATO_HOME", DEFAULT_HOME)
        try:
            return _home(text)
        except RuntimeError as error:
            raise SettingsError(f"KATO_HOME: {text!r} names no folder of a known user") from error

    def mongo_url(self) -> str | None:
        url = self.given.get("MONGO_URL")
        if url is not None and not url.startswith(("mongodb://", "mongodb+srv://")):
            raise SettingsError("MONGO_URL: must begin with mongodb:// or mongodb+srv://")
        return url

    def mongo_database(self) -> str:
        name = self.matching("MONGO_DATABASE", r"^[A-Za-z0-9_-]{1,63}$", default="kato")
        if name.lower() in _DATABASES_OF_MONGODB:
            raise SettingsError(f"MONGO_DATABASE: {name!r} is MongoDB's own, which has no transactions")
        return name

    def port(self) -> int:
        text = self.given.get("PORT", "8000")
        if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65_535:
            raise SettingsError(f"PORT: must be a port number, 0 to 65535, not {text!r}")
        return int(text)

    def log_level(self) -> str:
        level = self.given.get("LOG_LEVEL", "INFO").upper()
        if level not in LEVELS:
            raise SettingsError(f"LOG_LEVEL: must be one of {', '.join(LEVELS)}, not {level!r}")
        return level

    def seconds(self, name: str) -> float:
        text = self.given.get(name, "0")
        seconds = float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text) else math.nan
        if math.isnan(seconds):
            raise SettingsError(f"{name}: must be a number of seconds, 0 or more, not {text!r}")
        return seconds

    def node_secret(self, node_id: str, deployment_secret: str | None) -> str | None:
        """Return the node's own: as its gateway gave it, or derived from the deployment's."""
        given = self.given.get("NODE_SECRET")
        if given is None:
            return None if deployment_secret is None else node_secret(deployment_secret, node_id)
        if deployment_secret is not None:
            raise SettingsError("NODE_SECRET: DEPLOYMENT_SECRET_FILE is set, too, and the node derives it from there")
        if not re.fullmatch(r"[!-~]{16,256}", given):
            raise SettingsError("NODE_SECRET: must be 16 to 256 printable ASCII characters without spaces")
        return given

    def secret(self, name: str) -> str | None:
        path = self.given.get(name)
        if path is None:
            return None
        try:
            secret = Path(path).read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise SettingsError(f"{name}: cannot read {path}: {_reason(error)}") from error
        if not secret:
            raise SettingsError(f"{name}: {path} is empty")
        return secret


def _home(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or "an error" if isinstance(error, OSError) else "it is not ASCII text"

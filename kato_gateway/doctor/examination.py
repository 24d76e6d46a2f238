"""The whole examination: which things are looked at, and in what order."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Iterator, Mapping

import kato_node
from kato_gateway.doctor import clocks, files, processes
from kato_gateway.doctor.files import Recorded
from kato_gateway.doctor.findings import Finding, Trouble, fail, ok, warn
from kato_gateway.settings import Settings, SettingsError, from_environment


def examine(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what there is to say of the installation that these settings mean."""
    yield _versions()
    try:
        settings = from_environment(environment)
    except SettingsError as error:
        yield fail("settings", str(error), "set it right, or unset it (docs/operations.md, Settings)")
        return
    yield ok("settings", "understood")
    yield from _installation(settings)


def _installation(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    yield from files.look_at_home(home)
    recorded: Recorded | None = None
    if settings.mongo_url is not None:
        found, recorded = _mongo(settings.mongo_url, settings.mongo_database)
        yield from found
    if not home.is_dir():
        return
    if settings.mongo_url is None:
        finding, recorded = files.look_at_registry(home)
        yield finding
        yield from files.look_at_processors(home)
    yield files.look_at_secret(home, settings.secret_file, recorded)
    if settings.keys_file is not None:
        yield files.look_at_keys(settings.keys_file)
    if recorded is not None:
        yield clocks.against_records(recorded.newest_s)
    gateway = processes.gateway_pid(home)
    yield processes.look_at_gateway(gateway)
    yield processes.look_at_port(settings.host, settings.port, gateway)
    yield from processes.look_at_nodes(home, recorded, gateway)
    if settings.mongo_url is not None and settings.runtime != "process":
        yield from _engine(settings, recorded)


def _versions() -> Finding:
    versions = f"KATO {kato_node.__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return ok("versions", versions)


def _mongo(url: str, database: str) -> tuple[list[Finding], Recorded | None]:
    try:
        from kato_gateway.doctor.mongo import look_at_mongo  # noqa: PLC0415 - only where there is a MongoDB
    except ImportError:
        return [fail("mongodb", "its driver is not installed", "pip install -e '.[mongo]' in KATO's folder")], None
    return look_at_mongo(url, database)


def _engine(settings: Settings, recorded: Recorded | None) -> list[Finding]:
    trouble: Trouble = fail if settings.runtime == "docker" else warn
    try:
        from kato_gateway.doctor.engine import look_at_engine  # noqa: PLC0415 - only where there is an engine
    except ImportError:
        return [trouble("engine", "the Docker SDK is not installed", "pip install -e '.[docker]' in KATO's folder")]
    return look_at_engine(settings.node_image, recorded, trouble)

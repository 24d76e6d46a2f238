"""The folder of an installation: its disk, its secret, its databases. Nothing is opened for writing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kato_gateway.doctor.findings import Finding, fail, ok, warn
from kato_gateway.home import HomeError, deployment_secret, open_to_all, secret_digest
from kato_gateway.registry import schema

PROCESSOR_SCHEMA = 1  # kato_node.store.sqlite.SCHEMA_VERSION
_FREE_BYTES_WARN = 1024 * 2**20
_FREE_BYTES_FAIL = 64 * 2**20
_CHECKED_BYTES_MAX = 256 * 2**20
_RESTORE = "stop the gateway and restore it from a backup (docs/operations.md, Backup)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the registry says, as far as it can be read.

    Attributes:
        deployment: the installation's id; None: not settled yet.
        nodes: the state of each node on record, by its id.
        newest_s: the latest change on record, seconds since the epoch; 0: none.
        secret_digest: of the secret that all gateways of the installation must have; None: nobody said.
    """

    deployment: str | None
    nodes: dict[str, str]
    newest_s: float
    secret_digest: str | None = None


def look_at_home(home: Path) -> Iterator[Finding]:
    """Yield what is to be said of the folder and its disk."""
    if not home.exists():
        parent = next(each for each in home.parents if each.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield ok("home", f"{home} does not exist yet; the first start makes it")
        else:
            yield fail("home", f"{home} does not exist and cannot be made", f"set KATO_HOME, or open {parent} to us")
        return
    if not home.is_dir():
        yield fail("home", f"{home} is no folder", "set KATO_HOME to another place, or move that file away")
        return
    if os.statvfs(home).f_flag & os.ST_RDONLY or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        yield fail("home", f"{home} cannot be written", "see to its owner and permissions, and how its disk is mounted")
    elif home.stat().st_mode & 0o077:
        yield warn("home", f"{home} is open to other users of this machine", f"chmod 700 {home}")
    else:
        yield ok("home", f"{home} can be written")
    yield _disk(home)


def look_at_secret(home: Path, given: Path | None, recorded: Recorded | None) -> Finding:
    """Say whether the deployment's secret is there, the one that it was, and its owner's alone."""
    path = home / "secret" if given is None else given
    settled = None if recorded is None else recorded.secret_digest
    if given is None and not path.exists():
        if settled is None and not (home / "gateway.sqlite").exists():
            return ok("secret", "not made yet; the first start makes it")
        advice = "put it back from a backup; a new one is no good to nodes that run and tokens that were handed out"
        return fail("secret", f"{path} is missing", advice)
    try:
        secret = deployment_secret(home, path)
    except HomeError as error:
        return fail("secret", str(error), "put it back from a backup, or see to its owner and permissions")
    if settled not in {None, secret_digest(secret)}:
        message = f"{path} is not the secret of this MongoDB's gateways"
        return fail("secret", message, "give this one the same file (DEPLOYMENT_SECRET_FILE), or see to MONGO_URL")
    if path.stat().st_mode & 0o077:
        return warn("secret", f"{path} can be read by other users of this machine", f"chmod 600 {path}")
    return ok("secret", f"{path} is there, and private")


def look_at_keys(path: Path) -> Finding:
    """Say whether the file of the API keys, which was read, is its owner's alone."""
    if open_to_all(path):
        return warn("keys", f"{path} can be read by every user of this machine", f"chmod o= {path}")
    return ok("keys", f"{path} is there, and not everybody's")


def look_at_registry(home: Path) -> tuple[Finding, Recorded | None]:
    """Say whether the embedded registry can be read; return what it says, None if it cannot be told."""
    path = home / "gateway.sqlite"
    if not path.exists():
        return ok("registry", "not made yet; the first start makes it"), Recorded(deployment=None, nodes={}, newest_s=0)
    try:
        with closing(read_only(path)) as connection:
            version = _version(connection)
            if version > schema.VERSION:
                advice = "install the version of KATO that has used it, or restore a backup from before"
                return fail("registry", f"{path} has schema {version}; this KATO knows {schema.VERSION}", advice), None
            _check(connection, path)
            recorded = _recorded(connection)
    except (sqlite3.Error, ValueError, KeyError, OSError) as error:
        return fail("registry", f"{path} cannot be read: {error}", _RESTORE), None
    return ok("registry", f"{path}: schema {version}, whole, {len(recorded.nodes)} nodes on record"), recorded


def look_at_processors(home: Path) -> Iterator[Finding]:
    """Yield what is to be said of the processors' files: a line for each that is not well, one for all others."""
    well = 0
    for path in sorted((home / "processors").glob("*.sqlite")):
        try:
            with closing(read_only(path)) as connection:
                version = _version(connection)
                _check(connection, path)
        except (sqlite3.Error, ValueError, OSError) as error:
            yield fail("processors", f"{path} cannot be read: {error}", _RESTORE)
            continue
        if version > PROCESSOR_SCHEMA:
            message = f"{path} has schema {version}; this KATO knows {PROCESSOR_SCHEMA}"
            yield fail("processors", message, "install the version of KATO that has used it, or restore a backup")
        else:
            well += 1
    yield ok("processors", f"{well} files of processors are whole")


def read_only(path: Path) -> sqlite3.Connection:
    """Open a database so that nothing of it, and nothing beside it, changes."""
    unused = not path.with_name(path.name + "-wal").exists()  # else whoever uses it has made what reading takes
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if unused else ''}", uri=True, timeout=5)


def _disk(home: Path) -> Finding:
    free, names = shutil.disk_usage(home).free, os.statvfs(home)
    shown = f"{free / 2**20:,.0f} MiB are free on the disk of {home}"
    if free < _FREE_BYTES_FAIL or (names.f_files and not names.f_favail):
        return fail("disk", f"{shown}, {names.f_favail:,} inodes", "make room: writes are refused while there is none")
    if free < _FREE_BYTES_WARN:
        return warn("disk", shown, "make room soon")
    return ok("disk", shown)


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Look at every page, unless there are very many. Raises: sqlite3.Error, ValueError."""
    if path.stat().st_size <= _CHECKED_BYTES_MAX:
        [(said,), *_] = connection.execute("PRAGMA quick_check").fetchall()
        if said != "ok":
            raise ValueError(said)


def _recorded(connection: sqlite3.Connection) -> Recorded:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    facts = _rows(connection, "SELECT value FROM facts WHERE _id = 'deployment'") if "facts" in tables else []
    nodes = _rows(connection, "SELECT _id, state, document FROM nodes") if "nodes" in tables else []
    changes = [json.loads(str(document)).get("changed_at_s", 0.0) for _, _, document in nodes]
    return Recorded(
        deployment=str(facts[0][0]) if facts else None,
        nodes={str(node_id): str(state) for node_id, state, _ in nodes},
        newest_s=max(changes, default=0.0),
    )


def _rows(connection: sqlite3.Connection, sql: str) -> Sequence[tuple[object, ...]]:
    return connection.execute(sql).fetchall()

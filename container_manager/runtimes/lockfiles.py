"""Lock files: `KATO_HOME/run/<node id>.json`, each held (flock) by its node's own process for as long as it lives.

    the file                          the node is
    missing                           dead
    there, lock free                  dead: a trace, until it is removed
    there, lock held                  alive
    cannot be opened or understood    unknown
    empty, lock free                  dead: what a power cut may leave of a file never flushed

A file appears whole and with its lock held (it is linked into place), so no reader ever sees a node half made.
Standard library only: the fork server shares this module.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Life = Literal["alive", "dead", "unknown"]

FILE_BYTES_MAX = 65_536
# A node id is a DNS label, so it is safe in a file name.
_NODE_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRecord:
    """What a lock file says.

    Attributes:
        start_ticks: when the process started, in clock ticks since boot; with the pid it names one process for ever.
        created_at_s: of the node's spec, seconds since the epoch.
        request: the start that made it, so that a start which lost its answer can tell its own node from another's.
    """

    node_id: str
    pid: int
    start_ticks: int
    port: int
    deployment: str
    role: str
    spec_hash: str
    created_at_s: float
    request: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A node as its lock file shows it; `record` is None if there is no file, or none that can be understood."""

    node_id: str
    life: Life
    record: LockRecord | None = None


def run_dir(home: Path) -> Path:
    """Return the directory of a home's lock files."""
    return home / "run"


def is_node_id(node_id: str) -> bool:
    """Whether this can be a node's id at all; anything else must not become a path."""
    return _NODE_ID.fullmatch(node_id) is not None


def hold(run: Path, record: LockRecord) -> int:
    """Create the node's lock file, locked by the caller, and return the descriptor that holds it.

    Raises: FileExistsError if the node left a trace already; OSError.
    """
    path = run / f"{record.node_id}.json"
    unfinished = run / f".{record.node_id}.{secrets.token_hex(6)}"
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps(asdict(record)).encode())
        os.link(unfinished, path)
    except OSError:
        os.close(descriptor)
        raise
    finally:
        unfinished.unlink(missing_ok=True)
    return descriptor


def look(run: Path, node_id: str) -> Trace:
    """Say what the node's lock file shows; takes no lock that could be mistaken for a node's."""
    try:
        descriptor = os.open(run / f"{node_id}.json", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return Trace(node_id=node_id, life="dead")
    except OSError:
        return Trace(node_id=node_id, life="unknown")
    try:
        return _seen(descriptor, node_id)
    except OSError:
        return Trace(node_id=node_id, life="unknown")
    finally:
        os.close(descriptor)


def look_at_all(run: Path) -> Sequence[Trace]:
    """Look at every lock file, sorted by node id. Raises: OSError if the directory cannot be read."""
    names = sorted(path.stem for path in run.iterdir() if path.suffix == ".json")
    return [look(run, name) for name in names if is_node_id(name)]


def forget(run: Path, node_id: str) -> bool:
    """Delete a dead node's lock file; whether the node is without a file afterwards.

    The file is deleted only while it is the very one whose lock was found free.
    """
    path = run / f"{node_id}.json"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        if _seen(descriptor, node_id).life != "dead" or not os.path.samestat(os.fstat(descriptor), path.lstat()):
            return False
        path.unlink()
    except FileNotFoundError:
        return True
    finally:
        os.close(descriptor)
    return True


def discard_unfinished(run: Path) -> None:
    """Delete what nodes that were killed while they created their lock files left behind."""
    for path in run.glob(".*.*"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            path.unlink()


def start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None if there is none. Source: proc(5), field 22."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def _seen(descriptor: int, node_id: str) -> Trace:
    held = _is_held(descriptor)
    content = os.read(descriptor, FILE_BYTES_MAX)
    record = _parsed(content, node_id)
    if record is not None:
        return Trace(node_id=node_id, life="alive" if held else "dead", record=record)
    return Trace(node_id=node_id, life="unknown" if held or content else "dead")


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _parsed(content: bytes, node_id: str) -> LockRecord | None:
    try:
        fields = json.loads(content)
        record = LockRecord(**fields)
    except (ValueError, TypeError):
        return None
    whole = (record.pid, record.start_ticks, record.port)
    words = (record.node_id, record.deployment, record.role, record.spec_hash, record.request)
    understood = (
        all(type(number) is int and number > 0 for number in whole)
        and all(isinstance(word, str) for word in words)
        and isinstance(record.created_at_s, int | float)
    )
    return record if understood and record.node_id == node_id else None

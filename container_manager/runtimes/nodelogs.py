"""What nodes write: `KATO_HOME/logs/<node id>.log`, bounded by copy and truncate, with one old generation.

A node appends (O_APPEND) to a file that it never reopens, so a log is rotated under its feet: copied, then cut to
nothing. Lines written between the two are lost; nothing else is. The fork server rotates, and its umask keeps files
private. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

COPY_BYTES = 1024 * 1024
TAIL_BYTES_MAX = 4096
TAIL_LINES_MAX = 20


def logs_dir(home: Path) -> Path:
    """Return the directory of a home's logs."""
    return home / "logs"


def log_path(logs: Path, node_id: str) -> Path:
    """Return where a node's log stands."""
    return logs / f"{node_id}.log"


def rotate(log: Path, *, bytes_max: int) -> None:
    """If the log is longer than `bytes_max`, keep its newest part as `<log>.1` (the former one goes) and empty it.

    Raises: OSError, and the log is as it was.
    """
    size_bytes = log.stat().st_size
    if size_bytes <= bytes_max:
        return
    copy = log.with_name(f"{log.name}.1.new")
    with log.open("r+b") as source, copy.open("wb") as target:
        source.seek(size_bytes - bytes_max)
        left_bytes = 2 * bytes_max  # what arrives while we copy comes along, but a fast writer is not chased for ever
        while left_bytes > 0 and (chunk := source.read(COPY_BYTES)):
            left_bytes -= target.write(chunk)
        source.truncate(0)
    copy.replace(log.with_name(f"{log.name}.1"))


def prune(logs: Path, *, live: Collection[str], keep_max: int) -> None:
    """Delete the logs of gone nodes, but for the `keep_max` written to last."""
    gone: list[tuple[int, Path]] = []
    for log in logs.glob("*.log"):
        if log.stem not in live:
            with contextlib.suppress(FileNotFoundError):
                gone.append((log.stat().st_mtime_ns, log))
    for _, log in sorted(gone, reverse=True)[keep_max:]:
        for path in (log, log.with_name(f"{log.name}.1")):
            path.unlink(missing_ok=True)


def tail(log: Path) -> str:
    """Return the last lines of a log, for an error message; "" if there is none to read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES_MAX))
            text = file.read(TAIL_BYTES_MAX).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES_MAX:])

"""What the kernel tells of processes: who holds a lock, who listens on a port. Source: proc(5)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_LISTENING = "0A"


def lock_holder(path: Path) -> int | None:
    """Return the process that holds a lock (flock) on the file, None if nobody does.

    Takes no lock itself: whoever wants this one must not find it held by us.
    """
    try:
        found = path.stat()
        lines = (_PROC / "locks").read_text().splitlines()
    except OSError:
        return None
    name = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in lines:
        fields = line.split()  # number, kind, mode, access, pid, device:inode, …; waiting ones have "->" in between
        if fields[1] == "FLOCK" and fields[5] == name:
            return int(fields[4])
    return None


def listener(port: int) -> int | None:
    """Return the process that listens on the TCP port, 0 if that is not for us to know; None if none does."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    return next((pid for pid in pids() if inodes & set(open_files(pid))), 0)


def pids() -> Iterator[int]:
    """Yield every process."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def descriptors(pid: int) -> Iterator[Path]:
    """Yield the links to what the process has open."""
    with suppress(OSError):
        yield from (_PROC / str(pid) / "fd").iterdir()


def open_files(pid: int) -> Iterator[str]:
    """Yield what the process's descriptors lead to."""
    for link in descriptors(pid):
        with suppress(OSError):
            yield str(link.readlink())


def has_deleted(pid: int, directory: Path) -> bool:
    """Whether the process has a file open that was in this directory and has no name any more."""
    for link in descriptors(pid):
        with suppress(OSError):
            if str(link.readlink()).startswith(f"{directory}{os.sep}") and link.stat().st_nlink == 0:
                return True
    return False


def arguments(pid: int) -> list[str]:
    """Return the process's command line; empty if it is gone."""
    try:
        text = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [each.decode(errors="replace") for each in text.split(b"\0") if each]


def called(pid: int) -> str:
    """Return the process as people know it: its id and the beginning of its command line."""
    words = " ".join(arguments(pid))
    return f"pid {pid}" + (f" ({words[:80]})" if words else "")

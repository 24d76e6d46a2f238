"""The birth of a node: two forks, a session of its own, nothing inherited but its socket, its log and its lock.

Runs in the fork server, which is single-threaded, and then in the child, which never returns. Between them is one
socket pair: the child says who it is once it holds its lock, and begins only when told to go. A fork server that dies
meanwhile never says it, so no node begins of which nobody was told. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from container_manager.runtimes import lockfiles, nodelogs
from container_manager.runtimes.lockfiles import LockRecord

Entry = Callable[[Mapping[str, str], socket.socket], int]

HOST = "127.0.0.1"
GO = b"go"
REPORT_BYTES_MAX = 4096
# What a process needs to run at all; everything else in a node's environment comes from its spec.
BASICS = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")

STATUS_FAILED = 1
STATUS_NEVER_BEGAN = 70

_BACKLOG = 2048
_PR_SET_NAME = 15
_EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A node to start. `record` lacks what the child knows (pid, start_ticks) and what the kernel chooses (port)."""

    record: LockRecord
    env: Mapping[str, str]


def code_of(error: BaseException) -> str:
    """Return the stable code (container_manager.errors) for a failure between the order and the node's first step."""
    if isinstance(error, FileExistsError):
        return "NODE_NAME_TAKEN"
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return "NODE_RESOURCES_EXHAUSTED"
    return "NODE_START_FAILED"


def fork_node(order: Order, home: Path, entry: Entry) -> socket.socket:
    """Fork the node and return the parent's end of the pair to it, non-blocking; it holds a port and waits for GO.

    The port is chosen by the kernel and is listening before the fork: connections queue up until the node serves them.
    Raises: OSError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((HOST, 0))
        listener.listen(_BACKLOG)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                order = replace(order, record=replace(order.record, port=listener.getsockname()[1]))
                _fork(lambda: _node(order, home, entry, listener, theirs), theirs)
            except OSError:
                ours.close()
                raise
    ours.setblocking(False)
    return ours


def _fork(node: Callable[[], NoReturn], theirs: socket.socket) -> None:
    """Fork twice and run `node` in the grandchild. Signals wait until it has dropped the fork server's handlers."""
    sys.stdout.flush()
    sys.stderr.flush()
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        if os.fork() == 0:
            _between(node, theirs)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def _between(node: Callable[[], NoReturn], theirs: socket.socket) -> NoReturn:
    try:
        os.setsid()
        if os.fork() == 0:
            node()
    except OSError as error:
        _report_failure(theirs, error)
    finally:
        os._exit(0)


def _node(order: Order, home: Path, entry: Entry, listener: socket.socket, theirs: socket.socket) -> NoReturn:
    status = STATUS_NEVER_BEGAN
    try:
        lock = _begin(order, home, listener, theirs)
        if lock is not None:
            status = STATUS_FAILED
            status = _status_of(entry, listener)
    finally:
        _flush()
        os._exit(status)


def _begin(order: Order, home: Path, listener: socket.socket, theirs: socket.socket) -> int | None:
    """Become the node: descriptors, environment, lock, and the word to go. None: it is not to be."""
    node_id = order.record.node_id
    try:
        _take_descriptors(nodelogs.log_path(nodelogs.logs_dir(home), node_id), listener, theirs)
        _take_signals()
        _take_environment(order, listener)
        _take_name(f"kato-{node_id}")
        pid = os.getpid()
        record = replace(order.record, pid=pid, start_ticks=lockfiles.start_ticks(pid) or 0)
        run = lockfiles.run_dir(home)
        lock = lockfiles.hold(run, record)
    except (OSError, ValueError) as error:
        _report_failure(theirs, error)
        return None
    _report(theirs, {"pid": pid, "start_ticks": record.start_ticks, "port": record.port})
    if _told_to_go(theirs):
        theirs.close()
        return lock
    (run / f"{node_id}.json").unlink(missing_ok=True)
    return None


def _take_descriptors(log: Path, *kept: socket.socket) -> None:
    """Give the node its log and /dev/null; close whatever the fork server had open: its lock, its sockets, pidfds."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    keep = {0, 1, 2, *(each.fileno() for each in kept)}
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor not in keep:
            with suppress(OSError):  # the listing's own is gone already
                os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # both are text files here


def _take_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _take_environment(order: Order, listener: socket.socket) -> None:
    host, port = listener.getsockname()
    own = {"HOST": host, "PORT": str(port), "NODE_ID": order.record.node_id}
    basics = {name: os.environ[name] for name in BASICS if name in os.environ}
    os.environ.clear()
    os.environ.update(basics | dict(order.env) | own)
    time.tzset()


def _take_name(name: str) -> None:
    """Be recognisable in `ps -o comm`; the kernel keeps 15 bytes. The arguments stay the fork server's."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _told_to_go(theirs: socket.socket) -> bool:
    try:
        return theirs.recv(len(GO)) == GO
    except OSError:
        return False


def _report(theirs: socket.socket, message: Mapping[str, object]) -> None:
    with suppress(OSError):  # nobody is left to hear it; then nobody says go either
        theirs.send(json.dumps(message).encode())


def _report_failure(theirs: socket.socket, error: Exception) -> None:
    _report(theirs, {"code": code_of(error), "message": f"{type(error).__name__}: {error}"[:500]})


def _status_of(entry: Entry, listener: socket.socket) -> int:
    gc.enable()
    try:
        return entry(dict(os.environ), listener) & 0xFF
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return (end.code or 0) & 0xFF
        sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - the process ends here; its log must say why
        traceback.print_exc()
    return STATUS_FAILED


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()

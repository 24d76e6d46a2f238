"""The fork server: a program of its own that imports a node's modules once and forks a node on request in milliseconds.

    python -m container_manager.runtimes.forkserver --home HOME --entry MODULE:FUNCTION --fingerprint TEXT …

It outlives the gateway that started it, is the reaper of its nodes, tells every client when a node ends, and bounds
the nodes' logs. One per home: it holds a lock, and whoever wants another version of the code makes it retire. It is
single-threaded, so that forking is safe, and uses the standard library only, besides the entry it is told to import.

Messages are JSON, one object a line, over HOME/forkserver/socket:

    server: {"hello": {"fingerprint"}}           first, once the entry is imported
    client: {"op": "start", "id", "record": {…}, "env": {…}}
    server: {"id", "started": true} or {"id", "error": {"code", "message"}}
    client: {"op": "abandon", "id"}   if that node has not begun yet, it never will; the answer comes when it is gone
    client: {"op": "release"}     end as soon as there is no node and no client
    client: {"op": "retire"}      take no more nodes, leave the lock to another, end with the last child
    server: {"exit": {"node_id", "deployment"}}
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from container_manager.runtimes import lockfiles
from container_manager.runtimes.forking import Entry
from container_manager.runtimes.forkloop import ForkServer, listen, own_dir

_PR_SET_CHILD_SUBREAPER = 36


def main(arguments: Sequence[str] | None = None) -> int:
    """Become a daemon, take the home's lock, import the entry, serve. The first process says how it went, on stdout."""
    options = _options(arguments)
    if os.fork():
        os._exit(0)
    home = Path(options.home)
    own = own_dir(home)
    _settle(own)
    lock = os.open(own / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _say({"taken": True})
    listener = listen(own)
    try:
        entry = _load(options.entry)
    except BaseException as error:  # noqa: BLE001 - whatever a module does at import, whoever started us must be told
        return _say({"error": f"cannot import {options.entry}: {type(error).__name__}: {error}"})
    lockfiles.discard_unfinished(lockfiles.run_dir(home))
    server = ForkServer(
        home=home,
        entry=entry,
        fingerprint=options.fingerprint,
        listener=listener,
        lock=lock,
        linger_s=options.linger_s,
        log_bytes_max=options.log_bytes_max,
    )
    _say({"ready": True})
    server.serve()
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kato-forkserver", allow_abbrev=False)
    parser.add_argument("--home", required=True)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--fingerprint", required=True)
    parser.add_argument("--linger-s", type=float, required=True)
    parser.add_argument("--log-bytes-max", type=int, required=True)
    return parser.parse_args(arguments)


def _settle(own: Path) -> None:
    """Depend on nothing of whoever started us, adopt what our children leave, and see enough descriptors."""
    os.chdir(own)
    os.umask(0o077)
    output = os.open(own / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(output, 2)
    os.close(output)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _load(name: str) -> Entry:
    """Import the entry, and with it all that a node needs; what is imported is shared by all nodes."""
    module, _, function = name.partition(":")
    entry: Entry = getattr(importlib.import_module(module), function)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        raise RuntimeError(f"importing it started {threads - 1} threads, which a fork would lose")
    gc.disable()
    gc.collect()
    gc.freeze()  # a collection in a node must not touch, and so copy, the pages that all nodes share
    return entry


def _say(message: dict[str, object]) -> int:
    """Tell whoever started us, who waits for the end of our output."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)
    return 0


if __name__ == "__main__":
    sys.exit(main())

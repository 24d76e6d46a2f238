"""A node of nothing but the standard library, to try runtimes with.

TINY says how it behaves: "" serves; "exit" says why and ends; "silent" never answers; "stubborn" ignores SIGTERM;
"unready" answers 503; "hungry" takes 64 MiB before it serves. It serves GET /health, GET /facts (its environment,
descriptors, session …) and GET /write/N (N bytes to its log).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

_larder: list[bytes] = []


def run(env: Mapping[str, str], sock: socket.socket) -> int:
    """Serve on the socket until SIGTERM. Returns: the exit status."""
    behaviour = env.get("TINY", "")
    sys.stderr.write(f"tiny node {env['NODE_ID']} begins\n")
    if behaviour == "exit":
        return refuse(env, sock)
    if behaviour == "hungry":
        _larder.append(b"x" * (64 << 20))
    if behaviour == "raise":
        raise RuntimeError("tiny trouble")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else _end)
    if behaviour == "silent":
        return wait(env, sock)
    while True:
        connection, _ = sock.accept()
        with connection:
            _answer(connection, ready=behaviour != "unready")


def refuse(_env: Mapping[str, str], _sock: socket.socket) -> int:
    """Say why and end."""
    sys.stderr.write("setting TINY: exit is not a way to live\n")
    return 3


def wait(_env: Mapping[str, str], _sock: socket.socket) -> int:
    """Never answer."""
    while True:
        signal.pause()


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _answer(connection: socket.socket, *, ready: bool) -> None:
    path = connection.recv(65_536).split(b" ")[1].decode()
    body: object = {"status": "healthy"}
    if path == "/facts":
        body = _facts()
    elif path.startswith("/write/"):
        sys.stderr.write("x" * (int(path.rpartition("/")[2]) - 1) + "\n")
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 {200 if ready else 503} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode() + text)


def _facts() -> dict[str, object]:
    return {
        "environment": dict(os.environ),
        "descriptors": _descriptors(),
        "pid": os.getpid(),
        "session": os.getsid(0),
        "parent": os.getppid(),
        "umask": os.umask(0o077),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "files_max": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def _descriptors() -> list[str]:
    """Return what each open descriptor leads to, the one that lists them left out."""
    links = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(path.readlink()))
        except FileNotFoundError:
            continue
    return sorted(links)


if __name__ == "__main__":
    sys.exit(run(os.environ, socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))))

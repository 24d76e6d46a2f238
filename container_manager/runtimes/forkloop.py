"""The fork server's loop: clients, nodes being born, nodes that live; what comes in is a message, what ends is told.

Single-threaded, standard library only. The messages stand in forkserver.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from container_manager.runtimes import lockfiles, nodelogs
from container_manager.runtimes.forking import GO, REPORT_BYTES_MAX, Entry, Order, code_of, fork_node
from container_manager.runtimes.forklog import ForkLog
from container_manager.runtimes.jsonlines import JsonLines, Malformed
from container_manager.runtimes.lockfiles import LockRecord

TICK_S = 1.0
PRUNE_EVERY_S = 60.0
GONE_LOGS_MAX = 50
_BACKLOG = 128
_PAUSE_S = 0.05
_ENDING = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True, kw_only=True, eq=False)
class Birth:
    """A node that was forked and has not been told to go; one that is abandoned never is, and its end is waited for."""

    pair: socket.socket
    client: JsonLines
    request: int
    order: Order
    is_abandoned: bool = False


@dataclass(slots=True, kw_only=True)
class Watched:
    """A node that lives, our child or not; `pidfd` becomes readable when it ends."""

    record: LockRecord
    pidfd: int
    exit_status: int | None = None  # of our child, once it has ended


def own_dir(home: Path) -> Path:
    """Return the directory of a home's fork server: its lock, its socket and its log."""
    return home / "forkserver"


def listen(own: Path) -> socket.socket:
    """Bind the home's socket; the caller holds the lock, so a socket that is there is a dead one's. Raises: OSError."""
    path = own / "socket"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(own, os.O_PATH | os.O_CLOEXEC)
    try:  # a socket's path ends at 107 bytes; this one is short wherever the home is
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


class ForkServer:
    """Serves until no node and no client is left, or until it has retired and its last child is gone."""

    def __init__(
        self,
        *,
        home: Path,
        entry: Entry,
        fingerprint: str,
        listener: socket.socket,
        lock: int,
        linger_s: float,
        log_bytes_max: int,
    ) -> None:
        self._home = home
        self._log = ForkLog(home)
        self._entry = entry
        self._hello = {"hello": {"fingerprint": fingerprint}}
        self._listener = listener
        self._lock = lock
        self._linger_s = linger_s
        self._log_bytes_max = log_bytes_max
        self._selector = selectors.DefaultSelector()
        self._clients: set[JsonLines] = set()
        self._births: set[Birth] = set()
        self._nodes: dict[int, Watched] = {}  # by pidfd
        self._retired = False
        self._childless = False
        self._used_at_s = time.monotonic()
        self._ticked_at_s = self._pruned_at_s = 0.0

    def serve(self) -> None:
        """Serve to the end."""
        self._catch_signals()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        with contextlib.suppress(OSError):  # whoever cannot read the home's lock files will say so
            self._look_around()
        while not self._is_done():
            for key, _ in self._selector.select(self._patience_s()):
                if self._selector.get_map().get(key.fd) is key:  # an earlier event of this round may have ended it
                    key.data()
            if self._is_used():
                self._used_at_s = time.monotonic()
            self._tick()
        self._let_go()

    def _look_around(self) -> None:
        """Watch the nodes that are there already, and clear away what a power cut left of lock files."""
        run = lockfiles.run_dir(self._home)
        for trace in lockfiles.look_at_all(run):
            if trace.life == "alive" and trace.record is not None:
                self._adopt(trace.record)
            elif trace.life == "dead" and trace.record is None:
                lockfiles.forget(run, trace.node_id)

    def _is_used(self) -> bool:
        return bool(self._nodes or self._births or self._clients)

    def _is_done(self) -> bool:
        if self._retired:
            return self._childless
        return not self._is_used() and time.monotonic() >= self._used_at_s + self._linger_s

    def _patience_s(self) -> float | None:
        if self._retired or (self._clients and not self._nodes):
            return None
        return TICK_S if self._nodes else min(TICK_S, self._linger_s)

    def _tick(self) -> None:
        """Look after the logs, now and then. The one who took over looks after a retired one's nodes too."""
        now_s = time.monotonic()
        if self._retired or now_s < self._ticked_at_s + TICK_S:
            return
        self._ticked_at_s = now_s
        logs = nodelogs.logs_dir(self._home)
        of_nodes = [nodelogs.log_path(logs, node.record.node_id) for node in self._nodes.values()]
        for log in (own_dir(self._home) / "log", *of_nodes):
            with contextlib.suppress(OSError):  # a full disk or a deleted log is no reason to end; the next tick tries
                nodelogs.rotate(log, bytes_max=self._log_bytes_max)
        if now_s >= self._pruned_at_s + PRUNE_EVERY_S:
            self._pruned_at_s = now_s
            with contextlib.suppress(OSError):
                traces = lockfiles.look_at_all(lockfiles.run_dir(self._home))
                kept = {trace.node_id for trace in traces} | {birth.order.record.node_id for birth in self._births}
                nodelogs.prune(logs, live=kept, keep_max=GONE_LOGS_MAX)

    # Signals: children are reaped, whoever's they were; a request to end is one to retire; SIGHUP reads the level.

    def _catch_signals(self) -> None:
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGHUP, *_ENDING):
            signal.signal(number, lambda _number, _frame: None)  # what matters is the byte in the pair
        self._wake = wake
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._woken(woken))

    def _woken(self, woken: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = set(woken.recv(4096))
            if signal.SIGHUP in numbers:
                self._log.reread()
            if numbers & set(_ENDING):
                self._retire()
        self._reap()

    def _reap(self) -> None:
        self._childless = False
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                for node in self._nodes.values():
                    if node.record.pid == pid:
                        code = os.waitstatus_to_exitcode(status)
                        node.exit_status = code if code >= 0 else 128 - code
                        self._log.info("node_ended", node_id=node.record.node_id, status=code)
        self._childless = True

    # Clients.

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # the client is gone, or we are out of descriptors: it will try again
            self._log.warning("accept_failed", reason=str(error))
            time.sleep(_PAUSE_S)
            return
        client = JsonLines(connection)
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._serve(client))
        self._send(client, self._hello)

    def _serve(self, client: JsonLines) -> None:
        try:
            for message in client.receive():
                self._obey(client, message)
                if client not in self._clients:
                    return
        except Malformed as error:
            self._send(client, {"id": None, "error": {"code": "CONTAINER_ERROR", "message": str(error)}})
            self._drop(client)
        except OSError:
            self._drop(client)
        else:
            if client.ended:
                self._drop(client)
            else:
                self._send(client, None)

    def _obey(self, client: JsonLines, message: Mapping[str, object]) -> None:
        match message.get("op"):
            case "start":
                self._start(client, message)
            case "abandon":
                self._abandon(client, message.get("id"))
            case "release":
                self._linger_s = 0.0
            case "retire":
                self._retire()
            case _:
                raise Malformed("unknown op")

    def _send(self, client: JsonLines, message: Mapping[str, object] | None) -> None:
        """Send a message, or with None what is left of earlier ones; who does not read is dropped."""
        if client not in self._clients:
            return
        try:
            unsent = client.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return  # it is gone, but what it said last is still to be read
        except OSError:
            self._drop(client)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
        key = self._selector.get_key(client.connection)
        if key.events != wanted:
            self._selector.modify(client.connection, wanted, key.data)

    def _drop(self, client: JsonLines) -> None:
        """Forget a client; a node that was being born for it alone is told nothing, and so ends."""
        if client not in self._clients:
            return
        self._clients.remove(client)
        self._selector.unregister(client.connection)
        client.connection.close()
        for birth in [birth for birth in self._births if birth.client is client]:
            self._forget(birth)

    def _retire(self) -> None:
        if self._retired:
            return
        self._retired = True
        self._let_go()
        for client in list(self._clients):
            self._drop(client)
        self._reap()

    def _let_go(self) -> None:
        """Leave the socket's path and the lock to another, in this order."""
        if self._lock < 0:
            return
        self._selector.unregister(self._listener)
        (own_dir(self._home) / "socket").unlink(missing_ok=True)
        self._listener.close()
        os.close(self._lock)
        self._lock = -1

    # Nodes.

    def _start(self, client: JsonLines, message: Mapping[str, object]) -> None:
        request, order = _understood(message)
        try:
            pair = fork_node(order, self._home, self._entry)
        except OSError as error:
            self._send(client, {"id": request, "error": {"code": code_of(error), "message": str(error)}})
            return
        birth = Birth(pair=pair, client=client, request=request, order=order)
        self._births.add(birth)
        self._selector.register(pair, selectors.EVENT_READ, lambda: self._born(birth))

    def _born(self, birth: Birth) -> None:
        """The child reported: if all is well and somebody still waits for it, watch it, let it go, and say so.

        Its lock file is there by now, so a client that abandons it after our last look for such a message finds it.
        """
        report = _reported(birth.pair)
        self._serve(birth.client)
        if birth not in self._births or (birth.is_abandoned and report is not None):
            return
        try:
            if report is None:
                self._refuse(birth, "NODE_START_FAILED", "its process ended before it began")
            elif "code" in report:
                self._refuse(birth, report["code"], report["message"])
            else:
                self._watch(replace(birth.order.record, **report))
                birth.pair.send(GO)
                self._send(birth.client, {"id": birth.request, "started": True})
        except OSError as error:
            self._refuse(birth, code_of(error), str(error))
        finally:
            self._forget(birth)

    def _abandon(self, client: JsonLines, request: object) -> None:
        """Let the child see that nobody will tell it to go. The client is answered when that one is gone."""
        for birth in self._births:
            if birth.client is client and birth.request == request:
                birth.is_abandoned = True
                birth.pair.shutdown(socket.SHUT_WR)

    def _refuse(self, birth: Birth, code: str, message: str) -> None:
        self._send(birth.client, {"id": birth.request, "error": {"code": code, "message": message}})

    def _forget(self, birth: Birth) -> None:
        """Let go of a birth; a child that was not told to go ends."""
        if birth in self._births:
            self._births.remove(birth)
            self._selector.unregister(birth.pair)
            birth.pair.close()

    def _adopt(self, record: LockRecord) -> None:
        """Watch a node that a former fork server started."""
        with contextlib.suppress(OSError):
            if lockfiles.start_ticks(record.pid) == record.start_ticks:
                self._watch(record)

    def _watch(self, record: LockRecord) -> None:
        node = Watched(record=record, pidfd=os.pidfd_open(record.pid))
        self._nodes[node.pidfd] = node
        self._selector.register(node.pidfd, selectors.EVENT_READ, lambda: self._ended(node))

    def _ended(self, node: Watched) -> None:
        self._reap()
        del self._nodes[node.pidfd]
        self._selector.unregister(node.pidfd)
        os.close(node.pidfd)
        record = node.record
        ended = {"node_id": record.node_id, "deployment": record.deployment, "status": node.exit_status}
        notice = {"exit": ended}
        for client in list(self._clients):
            self._send(client, notice)


def _reported(pair: socket.socket) -> dict[str, Any] | None:
    try:
        content = pair.recv(REPORT_BYTES_MAX)
    except OSError:
        return None
    return dict(json.loads(content)) if content else None


def _understood(message: Mapping[str, object]) -> tuple[int, Order]:
    request, fields, env = message.get("id"), message.get("record"), message.get("env")
    if not isinstance(request, int) or not isinstance(fields, dict) or not isinstance(env, dict):
        raise Malformed("start needs id, record and env")
    if not all(isinstance(value, str) for value in env.values()):
        raise Malformed("env must map names to text")
    try:
        record = LockRecord(**fields, pid=0, start_ticks=0, port=0)
    except TypeError as error:
        raise Malformed(f"record: {error}") from None
    words = (record.node_id, record.deployment, record.role, record.spec_hash, record.request)
    if not all(isinstance(word, str) for word in words) or not isinstance(record.created_at_s, int | float):
        raise Malformed("record: a field has the wrong type")
    if not lockfiles.is_node_id(record.node_id):
        raise Malformed("record: not a node id")
    return request, Order(record=record, env=env)

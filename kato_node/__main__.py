"""Runs one node: `python -m kato_node` for one processor, `--pool` for a node that is bound later.

Exit status: 0 drained (SIGTERM, SIGINT, a control call) or idle; 1 could not start, failed, or ended without waiting
longer for storage that does not answer; 2 bad settings; 3 fenced: another node took the processor over. What went
wrong is one line on stderr, never a traceback.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvloop

from kato_node.api.app import create_app
from kato_node.node import BindSpec, Node
from kato_node.settings import Settings, SettingsError, from_environment
from kato_node.store.base import Store, StoreError, StoreUnavailable, StoreUnreachable
from kato_node.store.sqlite import SqliteStore
from kato_node.wire import logs
from kato_node.wire.server import Server, server_config

OKAY, FAILED, BAD_SETTINGS, FENCED = 0, 1, 2, 3
_BACKLOG = 2_048
_RETRY_S = 2.0  # between two looks for a store that was out of reach
_GRACE_S = 2  # for replies on their way out, once everything is applied; see DRAIN_MAX_S
_log = logging.getLogger("kato_node")


def main() -> int:
    """Run a node from the command line and the environment; return the exit status."""
    arguments = sys.argv[1:]
    if arguments not in ([], ["--pool"]):
        return _failed("usage: python -m kato_node [--pool]; everything else is set in the environment", BAD_SETTINGS)
    try:
        settings = from_environment(os.environ, pool=bool(arguments))
    except SettingsError as error:
        return _failed(str(error), BAD_SETTINGS)
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        return _failed(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}", FAILED)
    return _run(settings, listener)


def run(env: Mapping[str, str], sock: socket.socket) -> int:
    """Run a node with this environment on a socket that listens already; return the exit status."""
    try:
        settings = from_environment(env)
    except SettingsError as error:
        return _failed(str(error), BAD_SETTINGS)
    return _run(settings, sock)


def _run(settings: Settings, listener: socket.socket) -> int:
    logs.configure(settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_started(settings, listener))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return FAILED
    except Exception:  # noqa: BLE001 - the outer edge: whatever it is, a line in the log and no traceback
        _log.exception("node_failed")
        return FAILED


async def _started(settings: Settings, listener: socket.socket) -> int:
    try:
        async with _stores(settings) as open_store:
            return await _served(settings, listener, open_store)
    except StoreError as error:
        return _failed(str(error), FAILED)


async def _served(settings: Settings, listener: socket.socket, open_store: Callable[[str], Store]) -> int:
    """Live a node's life; return the exit status. Raises: StoreError, if it cannot be bound to its processor."""
    node = Node(
        node_id=settings.node_id,
        open_store=open_store,
        defaults=settings.defaults,
        limits=settings.limits,
        processor_name=settings.processor_name,
    )
    _take_signals(node, settings.home)
    if settings.processor_id is not None:
        spec = BindSpec(
            processor_id=settings.processor_id,
            idle_timeout_s=settings.idle_timeout_s,
            token_key=settings.token_key,
        )
        await _bound(node, spec)
    else:
        node.await_bind()
    host, port = listener.getsockname()[:2]
    facts = {"node_id": node.node_id, "processor_id": settings.processor_id, "host": host, "port": port}
    if node.stop_reason is None:
        _log.info("node_started", extra=facts)
        await serve(node, settings, listener)
    else:
        await node.stopped.wait()
    _log.info("node_stopped", extra={**facts, "reason": node.stop_reason})
    if node.stop_reason == "fenced":
        return FENCED
    return FAILED if node.gave_up else OKAY


async def _bound(node: Node, spec: BindSpec) -> None:
    """Bind the node: again and again while its store is out of reach, until it is told to stop.

    Raises: StoreError for what waiting does not mend.
    """
    while node.stop_reason is None:
        try:
            await node.bind(spec)
        except StoreUnreachable as error:
            facts = {"reason": error.message, "cause": str(error.__cause__ or ""), "retry_in_s": _RETRY_S}
            _log.warning("store_unreachable", extra=facts)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await node.stopped.wait()
        else:
            return


async def serve(node: Node, settings: Settings, listener: socket.socket) -> None:
    """Serve the node on a listening socket until the node has stopped and its last replies have left.

    A WebSocket that closes 1012 has been answered whatever was applied; where that cannot be said, connections break.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what it accepts inherits this, in any event loop
    app = create_app(node, settings)
    message_bytes_max = settings.body_bytes_max  # up to there a message that is too large is answered
    heartbeat = settings.heartbeat
    server = Server(server_config(app, message_bytes_max=message_bytes_max, grace_s=_GRACE_S, heartbeat=heartbeat))
    serving = asyncio.create_task(server.serve([listener]))
    stopped = asyncio.create_task(node.stopped.wait())
    try:
        await asyncio.wait((serving, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not node.stopped.is_set():
            server.cut()
        server.stop()
    await serving


def _take_signals(node: Node, home: Path) -> None:
    """Drain at the first SIGTERM or SIGINT; a second one does not wait for what is in flight. SIGHUP: see logs."""
    running = asyncio.current_task()
    draining: list[asyncio.Task[None]] = []

    def drain() -> None:
        if draining and running is not None:
            running.cancel()
        draining.append(asyncio.create_task(node.drain()))

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)
    logs.reread_on_hangup(loop, home, at_terminal_end=drain)


@asynccontextmanager
async def _stores(settings: Settings) -> AsyncIterator[Callable[[str], Store]]:
    """Provide what makes a processor's store. The driver of one is imported only where it is used.

    A node of the pool connects to MongoDB ahead of its bind; if that is out of reach now, the bind finds out once more.
    Raises: StoreUnavailable.
    """
    if settings.mongo_url is None:
        folder = settings.home / "processors"
        yield lambda processor_id: SqliteStore(folder / f"{processor_id}.sqlite", processor_id)
        return
    try:
        from kato_node.store.mongo import MongoStores  # noqa: PLC0415
    except ImportError as error:
        raise StoreUnavailable(
            "MONGO_URL needs the MongoDB driver: pip install -e '.[mongo]' in KATO's folder"
        ) from error
    stores = MongoStores(settings.mongo_url, settings.mongo_database)
    if settings.processor_id is None:
        try:
            await stores.connect()
        except StoreUnreachable as error:
            _log.warning("store_unreachable", extra={"reason": error.message, "cause": str(error.__cause__ or "")})
    try:
        yield stores
    finally:
        await stores.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _failed(line: str, status: int) -> int:
    print(f"kato-node: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

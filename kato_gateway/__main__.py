"""Runs the gateway in the foreground: `python -m kato_gateway`, until SIGINT (Ctrl-C) or SIGTERM.

`python -m kato_gateway doctor` says what is wrong with an installation, `… backup DIR` copies it: see there.
Exit status: 0 stopped; 1 could not start, failed, or did not stop in time; 2 bad settings. What went wrong is one line
on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path

import uvloop
from fastapi import FastAPI

from container_manager.errors import ContainerError, RuntimeUnavailable
from container_manager.runtime import Runtime
from container_manager.spec import Liveness
from kato_gateway import backup, wiring
from kato_gateway.api.app import BODY_BYTES_MAX
from kato_gateway.doctor import __main__ as doctor
from kato_gateway.domain.errors import GatewayError
from kato_gateway.home import HomeError, deployment_secret, held, open_to_all
from kato_gateway.settings import Settings, SettingsError, from_environment
from kato_gateway.wiring import CannotStart
from kato_node import settings as node_settings
from kato_node.wire import logs
from kato_node.wire.server import Server, server_config

OKAY, FAILED, BAD_SETTINGS, INTERRUPTED = 0, 1, 2, 130
_BACKLOG = 2_048
_GRACE_S = 10  # for calls under way
STOP_MAX_S = 45.0  # from the first signal: then it hurries, as after a second one
END_MAX_S = 55.0  # then it is gone, whatever hangs; container engines wait 60 s in our compose file
_KILL_PAUSES_S = (0.0, 0.1, 0.2, 0.5, 1.0)  # between looks for nodes that live, or while none can be told
_TOOLS = {"doctor": doctor.main, "backup": backup.main}
_log = logging.getLogger("kato_gateway")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway from the command line and the environment; return the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in _TOOLS:
        return _TOOLS[given[0]](given[1:])
    parser = argparse.ArgumentParser(
        prog="kato-gateway",
        description="Everything is set in the environment.",
        epilog="kato-gateway doctor: what is wrong, and what to do; kato-gateway backup DIR: copy what is kept",
    )
    parser.add_argument("--started-at", type=float, metavar="SECONDS", help="since the epoch; to say how long it took")
    started_at_s = parser.parse_args(given).started_at
    try:
        settings = from_environment(os.environ)
        wiring.check(settings)
        with held(settings.home):
            deployment_secret(settings.home, settings.secret_file)
            with closing(_listening(settings)) as listener:
                logs.configure(settings.terminal_log_level if sys.stderr.isatty() else settings.log_level)
                _say_what_everybody_can_read(settings)
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(_run(settings, listener, started_at_s))
    except (SettingsError, node_settings.SettingsError) as error:
        return _failed(error, BAD_SETTINGS)
    except (CannotStart, HomeError, GatewayError, ContainerError) as error:
        return _failed(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return OKAY


def _listening(settings: Settings) -> socket.socket:
    """Take the address before anything is started; whoever connects meanwhile waits. Raises: CannotStart."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        message = f"cannot listen on {settings.host}:{settings.port}: {reason}; set GATEWAY_PORT to another port"
        raise CannotStart(message) from error


async def _run(settings: Settings, listener: socket.socket, started_at_s: float | None) -> None:
    """Run from the first node to the last. Raises: CannotStart, HomeError, GatewayError, ContainerError."""
    signals = _Signals(settings.home)
    async with AsyncExitStack() as stack:
        connecting = asyncio.ensure_future(wiring.connected(settings, stack, say=_say))
        if not await _unless(signals.stop, connecting):
            return
        parts = connecting.result()
        _say_what_is_not_enforced(settings, parts.runtime)
        try:
            if await _unless(signals.stop, parts.lifecycle.start()):
                await _serve(parts.app, listener, signals, _welcome(settings, listener, started_at_s, parts.chosen))
        finally:
            stopped = await _unless(signals.hurry, parts.lifecycle.stop())
            if not stopped and not parts.lifecycle.peers.share_nodes:  # else they serve another gateway's sessions
                await _kill_all(parts.runtime)


async def _serve(app: FastAPI, listener: socket.socket, signals: _Signals, welcome: str) -> None:
    """Serve until asked to stop; calls under way are finished, sockets closed with 1012."""
    # Up to the limit of a body, the node answers a message that is too large; beyond, its socket closes (1009).
    _log.info("gateway_started", extra={"address": listener.getsockname()[:2], "pid": os.getpid()})
    config = server_config(app, message_bytes_max=BODY_BYTES_MAX, grace_s=_GRACE_S)
    server = Server(config, on_serving=lambda: _say(welcome))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await _unless(signals.stop, asyncio.shield(serving))
    finally:
        _log.info("gateway_stopping")
        _say("KATO is stopping; another Ctrl-C hurries.")
        server.stop()
        if not await _unless(signals.hurry, asyncio.shield(serving)):
            server.force_exit = True
        await serving


class _Signals:
    """SIGINT, SIGTERM and a closed terminal: the first asks to stop, another one to hurry. SIGHUP: see logs.

    Made inside the running loop. Whatever hangs, the process ends within END_MAX_S of the first.
    """

    def __init__(self, home: Path) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._received)
        logs.reread_on_hangup(loop, home, at_terminal_end=self._received)

    def _received(self) -> None:
        if self.stop.is_set():
            self.hurry.set()
            return
        self.stop.set()
        asyncio.get_running_loop().call_later(STOP_MAX_S, self.hurry.set)
        last = threading.Timer(END_MAX_S, _give_up)  # a thread: it is the loop, or one of its threads, that may hang
        last.daemon = True
        last.start()


def _give_up() -> None:
    """End this process where it stands. What was acknowledged is stored; nodes that run end by themselves."""
    _log.error("stop_given_up", extra={"after_s": END_MAX_S})
    os._exit(FAILED)


async def _unless(event: asyncio.Event, work: Awaitable[object]) -> bool:
    """Wait for the work, or until the event is set: then the work is cancelled. Returns: whether it was done.

    Raises: what the work raises.
    """
    doing = asyncio.ensure_future(work)
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
        done = doing.done()
    finally:
        doing.cancel()
        waiting.cancel()
        await asyncio.wait((doing, waiting))
    if done:
        doing.result()
    return done


async def _kill_all(runtime: Runtime) -> None:
    """End every node now. What was acknowledged is stored, so nothing is lost. Raises: ContainerError if some live."""
    for pause_s in _KILL_PAUSES_S:
        try:
            if not await _killed(runtime):
                return
        except ContainerError as error:
            _log.warning("nodes_not_listed", extra={"reason": repr(error)})
        await asyncio.sleep(pause_s)
    if left := await _killed(runtime):
        raise RuntimeUnavailable(f"nodes that do not end: {', '.join(left)}")


async def _killed(runtime: Runtime) -> Sequence[str]:
    """Kill the nodes that live, and return their ids. Raises: ContainerError if that cannot be told."""
    alive = [node.node_id for node in await runtime.list() if node.liveness is Liveness.ALIVE]
    outcomes = await asyncio.gather(*(runtime.stop(node_id, grace_s=0.0) for node_id in alive), return_exceptions=True)
    for node_id, outcome in zip(alive, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            _log.error("node_not_stopped", exc_info=outcome, extra={"node_id": node_id})
    return alive


def _welcome(settings: Settings, listener: socket.socket, started_at_s: float | None, chosen: str) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    took = "" if started_at_s is None else f", ready after {time.time() - started_at_s:.1f} s"
    served = f"KATO serves at {url} (documentation: {url}/docs){took}; Ctrl-C ends it and its nodes."
    return f"{served}\n{chosen}" if chosen else served


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError:  # nobody reads us any more; the rest goes nowhere, or it would fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_what_is_not_enforced(settings: Settings, runtime: Runtime) -> None:
    able = runtime.capabilities
    for name, value, enforced in (
        ("NODE_MEMORY_MAX", settings.node_memory_max_bytes, able.limits_memory),
        ("NODE_CPUS_MAX", settings.node_cpus_max, able.limits_cpus),
    ):
        if value is not None and not enforced:
            _log.warning("limit_not_enforced", extra={"setting": name, "runtime": runtime.name})


def _say_what_everybody_can_read(settings: Settings) -> None:
    files = {"API_KEYS_FILE": settings.keys_file, "DEPLOYMENT_SECRET_FILE": settings.secret_file}
    for name, path in files.items():
        if path is not None and open_to_all(path):
            _log.warning("file_open_to_all", extra={"setting": name, "path": str(path), "advice": f"chmod o= {path}"})


def _failed(error: Exception, status: int) -> int:
    print(f"kato-gateway: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

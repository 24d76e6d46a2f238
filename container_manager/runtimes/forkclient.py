"""The runtime's side of the fork server: one connection, kept up, with the program started when there is none."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from container_manager.errors import (
    ContainerError,
    NameTaken,
    ResourcesExhausted,
    RuntimeUnavailable,
    StartFailed,
)
from container_manager.runtimes.forklaunch import Program, fingerprint, launch
from container_manager.runtimes.forkloop import own_dir

CONNECT_TIMEOUT_S = 30.0
RETRY_S = 5.0

_PAUSE_S = 0.02
_FAREWELL_S = 1.0
_WITHDRAWAL_S = 1.0
_LINE_BYTES_MAX = 1024 * 1024
_ERRORS: Mapping[str, type[ContainerError]] = {
    error.code: error for error in (NameTaken, ResourcesExhausted, StartFailed)
}


class LinkLost(Exception):
    """The connection broke before the answer: what was asked for may or may not have happened."""


class ForkClient:
    """Asks the home's fork server for nodes, and hears of the end of each.

    Args:
        on_exit: called with the id and the deployment of each node that ends, and its exit status if that is known.
    """

    def __init__(self, program: Program, on_exit: Callable[[str, str, int | None], None]) -> None:
        self._program = program
        self._on_exit = on_exit
        self._link: _Link | None = None
        self._linking = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._launches: set[asyncio.Task[bool]] = set()

    async def open(self) -> None:
        """Connect, and keep connected. Idempotent. Raises: RuntimeUnavailable."""
        await self._linked(CONNECT_TIMEOUT_S)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_linked())

    async def close(self, *, release: bool) -> None:
        """Disconnect; with `release` the fork server ends as soon as no node and no other client needs it."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        if self._launches:
            await asyncio.wait(self._launches)
            await self._drop_link()
            with contextlib.suppress(TimeoutError):  # what it started ends by itself, a little later
                async with asyncio.timeout(_FAREWELL_S):
                    self._link = await _greeted(own_dir(self._program.home), self._on_exit)
        if self._link is not None and release:
            self._link.tell({"op": "release"})
        await self._drop_link()

    async def start(self, record: Mapping[str, object], env: Mapping[str, str]) -> None:
        """Have a node forked; it holds its lock and begins when this returns.

        After any failure, cancellation included, the node's lock file shows whether it has begun: if none is there by
        then, it never will.

        Args:
            record: the fields of its LockRecord that the fork server does not fill in.
        Raises: LinkLost, NameTaken, StartFailed, ResourcesExhausted, RuntimeUnavailable.
        """
        link = await self._linked(CONNECT_TIMEOUT_S)
        await link.ask({"op": "start", "record": record, "env": env})

    async def _linked(self, timeout_s: float) -> _Link:
        try:
            async with asyncio.timeout(timeout_s), self._linking:
                if self._link is None or self._link.lost.done():
                    await self._drop_link()
                    self._link = await self._connect()
                return self._link
        except TimeoutError:
            raise RuntimeUnavailable(f"no connection to the fork server within {timeout_s:.3g} s") from None

    async def _drop_link(self) -> None:
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def _connect(self) -> _Link:
        """Connect to a fork server of today's code; an older one has to retire, a missing one is started."""
        while True:
            version = await asyncio.to_thread(fingerprint, self._program)
            link = await _greeted(own_dir(self._program.home), self._on_exit)
            if link is None:
                if not await self._launched(version):
                    await asyncio.sleep(_PAUSE_S)  # somebody else's is about to listen, or about to end
            elif link.fingerprint == version:
                return link
            else:
                await link.retire()

    async def _launched(self, version: str) -> bool:
        """Start the program; a caller that is cancelled does not wait for it, `close` does."""
        task = asyncio.create_task(asyncio.to_thread(launch, self._program, version))
        self._launches.add(task)
        task.add_done_callback(self._launches.discard)
        return await asyncio.shield(task)

    async def _keep_linked(self) -> None:
        """Without a connection nobody hears of exits, and with no fork server nobody looks after logs."""
        while True:
            try:
                link = await self._linked(CONNECT_TIMEOUT_S)
            except RuntimeUnavailable:
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.wait({link.lost})


async def _greeted(own: Path, on_exit: Callable[[str, str, int | None], None]) -> _Link | None:
    """Connect and wait for the greeting; None if nobody serves there."""
    try:
        connection = _connected(own)
    except OSError:
        return None
    try:
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_LINE_BYTES_MAX)
    except BaseException:
        connection.close()
        raise
    try:
        greeting = json.loads(await reader.readuntil(b"\n"))
        version = str(greeting["hello"]["fingerprint"])
    except BaseException as error:
        writer.transport.abort()
        if isinstance(error, OSError | EOFError | ValueError | LookupError | TypeError | asyncio.LimitOverrunError):
            return None
        raise
    return _Link(reader, writer, version, on_exit)


def _connected(own: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        directory = os.open(own, os.O_PATH | os.O_CLOEXEC)
        try:  # a socket's path ends at 107 bytes; this one is short wherever the home is
            connection.connect(f"/proc/self/fd/{directory}/socket")
        finally:
            os.close(directory)
    except OSError:
        connection.close()
        raise
    return connection


class _Link:
    """One connection; `lost` is done once it is broken or closed."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        greeted_by: str,
        on_exit: Callable[[str, str, int | None], None],
    ) -> None:
        self.fingerprint = greeted_by
        self.lost: asyncio.Task[None] = asyncio.create_task(self._listen(reader))
        self._writer = writer
        self._on_exit = on_exit
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[dict[str, Any] | None]] = {}  # answered None: the link is lost

    def tell(self, message: Mapping[str, object]) -> None:
        """Send a message that has no answer."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def ask(self, message: Mapping[str, object]) -> None:
        """Send a request and wait for it to be granted; one that is cancelled is withdrawn first.

        Raises: LinkLost, or the error that the answer names.
        """
        if self.lost.done():
            raise LinkLost
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self.tell({**message, "id": number})
            await asyncio.wait({answer})
        except asyncio.CancelledError:
            self.tell({"op": "abandon", "id": number})
            await asyncio.wait({answer}, timeout=_WITHDRAWAL_S)
            raise
        finally:
            del self._asked[number]
        _check(answer.result())

    async def retire(self) -> None:
        """Have the fork server make room for another; return once it has."""
        try:
            self.tell({"op": "retire"})
            await asyncio.wait({self.lost})
        finally:
            await self.close()

    async def close(self) -> None:
        """Send what is still unsent, then end."""
        self._writer.close()
        with contextlib.suppress(OSError):
            try:
                async with asyncio.timeout(_FAREWELL_S):
                    await self._writer.wait_closed()
            finally:
                self._writer.transport.abort()
        self.lost.cancel()
        await asyncio.wait({self.lost})

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._hear(json.loads(line))
        except (OSError, ValueError):
            pass  # broken, or not a message: either way nothing more can be heard
        finally:
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_result(None)

    def _hear(self, message: dict[str, Any]) -> None:
        if "exit" in message:
            ended = message["exit"]
            self._on_exit(ended["node_id"], ended["deployment"], ended.get("status"))
        answer = self._asked.get(message.get("id", -1))
        if answer is not None and not answer.done():
            answer.set_result(message)


def _check(answer: dict[str, Any] | None) -> None:
    """Raises: LinkLost, or the error that the answer names."""
    if answer is None:
        raise LinkLost
    if "error" in answer:
        error = _ERRORS.get(answer["error"]["code"], ContainerError)
        raise error(answer["error"]["message"])

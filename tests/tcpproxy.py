"""A TCP proxy whose network a test spoils: connections cut, bytes held back, replies swallowed, nobody let in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

_CHUNK_BYTES = 65_536


class TcpProxy:
    """Forwards connections from a loopback port of its own to a server.

    Attributes:
        address: where it listens, for life.
        connections: how many it has forwarded so far.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self.address = ("127.0.0.1", 0)
        self.connections = 0
        self._server = server
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._swallow_after: Callable[[bytes], bool] | None = None
        self._swallowed = asyncio.Event()
        self._then_refuse = False

    async def open(self) -> None:
        """Listen."""
        self._listener = await asyncio.start_server(self._accepted, *self.address)
        self.address = self._listener.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        """Cut everything, and listen no more."""
        assert self._listener is not None
        self._listener.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()

    def cut(self) -> None:
        """Break every connection there is, with a reset; new ones are let in."""
        for writer in self._writers:
            writer.transport.abort()

    def refuse(self) -> None:
        """Break every connection there is, and those to come as soon as they are made."""
        self._refusing = True
        self.cut()

    def hold(self) -> None:
        """Forward nothing any more, in neither direction; connections stay open, and new ones are made."""
        self._flowing.clear()

    def restore(self) -> None:
        """Forward everything, that which was held back too."""
        self._refusing = False
        self._swallow_after = None
        self._flowing.set()

    def swallow_reply(self, to: Callable[[bytes], bool], *, then_refuse: bool = False) -> asyncio.Event:
        """The first request that `to` says yes to arrives, and its connection is cut when the reply comes.

        Args:
            then_refuse: from that moment on, as after `refuse`.
        Returns: what is set once that has happened.
        """
        self._swallow_after = to
        self._then_refuse = then_refuse
        self._swallowed = asyncio.Event()
        return self._swallowed

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError):
                await self._forward(reader, writer)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._server)
        self.connections += 1
        condemned = asyncio.Event()
        try:
            there = asyncio.create_task(self._requests(reader, server_writer, condemned))
            back = asyncio.create_task(self._replies(server_reader, writer, condemned))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (there, back):
                    task.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        finally:
            server_writer.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, condemned: asyncio.Event
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._flowing.wait()
            if self._swallow_after is not None and self._swallow_after(data):
                self._swallow_after = None
                condemned.set()
            writer.write(data)
            await writer.drain()

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, condemned: asyncio.Event
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._flowing.wait()
            if condemned.is_set():
                self._swallowed.set()
                if self._then_refuse:
                    self.refuse()
                return
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(server: tuple[str, int]) -> AsyncIterator[TcpProxy]:
    """Run a proxy in front of the server until the block ends."""
    proxy = TcpProxy(server)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()

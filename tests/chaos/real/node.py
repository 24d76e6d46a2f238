"""A node as the fork server runs it, which dies or falls silent at the points of a commit that the harness names.

What is wrapped is its store and its HTTP server's way out; the node itself is the product's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from kato_node import __main__ as node_main
from kato_node.domain.learn import Pattern
from kato_node.domain.state import Vector
from kato_node.settings import Settings
from kato_node.store.base import Batch, CommitUnknown, ProcessorRecord, SessionRecord, Store
from tests.chaos.plants import PLANTS
from tests.chaos.real import points

_SLOW_S = 1.0


def run(env: Mapping[str, str], sock: socket.socket) -> int:
    """Run a node; see kato_node.__main__.run."""
    home = Path(env["KATO_HOME"])
    bound: list[str] = []
    stores = node_main._stores

    @asynccontextmanager
    async def harnessed(settings: Settings) -> AsyncIterator[Callable[[str], Store]]:
        async with stores(settings) as open_store:

            def opened(processor_id: str) -> Store:
                bound.append(processor_id)
                return ChaosStore(open_store(processor_id), home, processor_id)

            yield opened

    plant = PLANTS[name]() if (name := points.planted(home)) else nullcontext()
    with plant, mock.patch.object(node_main, "_stores", harnessed), _replies_lost(home, bound):
        return node_main.run(env, sock)


def _replies_lost(home: Path, bound: Sequence[str]) -> Any:
    """Break connections off in place of the replies that are to be lost."""
    send = RequestResponseCycle.send

    async def lossy(self: RequestResponseCycle, message: Any) -> None:
        changes = self.scope["method"] != "GET" and not self.scope["path"].startswith("/control")
        if (
            message["type"] == "http.response.start"
            and changes
            and bound
            and points.taken(home, bound[-1], "lost-reply")
        ):
            self.transport.abort()
        await send(self, message)

    return mock.patch.object(RequestResponseCycle, "send", lossy)


class ChaosStore:
    """A store whose commits obey the harness; see Store for each method."""

    def __init__(self, inner: Store, home: Path, processor_id: str) -> None:
        self._inner = inner
        self._home = home
        self._processor_id = processor_id
        self._is_unfenced = points.planted(home) == "fence-off"

    async def open(self) -> None:
        """See Store."""
        await self._inner.open()

    async def close(self) -> None:
        """See Store."""
        await self._inner.close()

    async def bind(self) -> ProcessorRecord:
        """See Store."""
        return await self._inner.bind()

    async def read_epoch(self) -> int:
        """See Store."""
        return await self._inner.read_epoch()

    async def load_patterns(self) -> AsyncIterator[Pattern]:
        """See Store."""
        async for pattern in self._inner.load_patterns():
            yield pattern

    async def load_vectors(self) -> AsyncIterator[tuple[str, Vector]]:
        """See Store."""
        async for vector in self._inner.load_vectors():
            yield vector

    async def load_session(self, session_id: str) -> SessionRecord | None:
        """See Store."""
        return await self._inner.load_session(session_id)

    async def load_reply(self, session_id: str, number: int) -> str | None:
        """See Store."""
        return await self._inner.load_reply(session_id, number)

    async def session_ids(self) -> Sequence[str]:
        """See Store."""
        return await self._inner.session_ids()

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        if batch.sessions and self._obeys("before-commit"):
            os.kill(os.getpid(), signal.SIGKILL)
        if batch.sessions and self._obeys("failed-commit"):
            raise CommitUnknown("No answer came.")
        if points.is_slow(self._home, self._processor_id):
            await asyncio.sleep(_SLOW_S)
        if self._is_unfenced:
            epoch = await self._inner.read_epoch()
        await self._inner.commit(batch, epoch=epoch)
        if batch.sessions and self._obeys("after-commit"):
            os.kill(os.getpid(), signal.SIGKILL)
        if batch.sessions and self._obeys("lost-commit-reply"):
            raise CommitUnknown("No answer came.")

    def _obeys(self, point: str) -> bool:
        return points.taken(self._home, self._processor_id, point)

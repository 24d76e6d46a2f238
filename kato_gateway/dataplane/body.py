"""A request's body on its way to a node: kept while it is small, so that the call can be repeated; else streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from kato_gateway.dataplane.hangup import unless_hung_up

T = TypeVar("T")


class RequestBody:
    """One request's body, read from its ASGI `receive`.

    Attributes:
        failure: what went wrong on the client's side.
        on_progress: called for each piece that is streamed on.
    """

    def __init__(self, receive: Receive, *, kept_bytes_max: int) -> None:
        self._receive = receive
        self._kept_bytes_max = kept_bytes_max
        self._kept: list[bytes] = []
        self._size = 0
        self._whole = False
        self._streamed = False
        self.failure: Exception | None = None
        self.on_progress: Callable[[], None] = lambda: None

    @property
    def small(self) -> bool:
        """Whether the whole body has been kept, and is no more than may be."""
        return self._whole and self._size <= self._kept_bytes_max

    @property
    def repeatable(self) -> bool:
        """Whether the body can be sent once more: nothing that was not kept has been taken from the client."""
        return not self._streamed

    async def keep(self) -> None:
        """Read the body as far as it may be kept. Raises: ClientDisconnect, and whatever `receive` raises."""
        while not self._whole and self._size <= self._kept_bytes_max:
            self._kept.append(await self._next())

    async def unless_hung_up(self, work: Awaitable[T]) -> T:
        """Return what the work returns; once the body is read it is cancelled if the client hangs up.

        Raises: ClientDisconnect, and what the work raises.
        """
        return await (unless_hung_up(self._receive, work) if self._whole else work)

    def kept(self) -> bytes:
        """Return what has been kept; the whole body if it is `small`."""
        return b"".join(self._kept)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body: what has been kept, then the rest as it comes.

        What goes wrong on the client's side is raised, and stands in `failure` for those who see only a broken send.
        """
        for chunk in self._kept:
            yield chunk
        while not self._whole:
            self._streamed = True
            try:
                chunk = await self._next()
            except Exception as failure:
                self.failure = failure
                raise
            self.on_progress()
            yield chunk

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self._size += len(chunk)
        self._whole = not message.get("more_body", False)
        return chunk

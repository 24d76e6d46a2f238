"""Clients that leave before they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")

_GONE = frozenset({"http.disconnect", "websocket.disconnect"})


async def hung_up(receive: Receive) -> None:
    """Wait until the client hangs up; its request, or the first event of its WebSocket, must have been read."""
    while (await receive())["type"] not in _GONE:
        pass


async def unless_hung_up(receive: Receive, work: Awaitable[T]) -> T:
    """Return what the work returns; it is cancelled once the client hangs up, as `hung_up` finds out.

    Raises: ClientDisconnect, and what the work raises.
    """
    caller = asyncio.current_task()
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        await hung_up(receive)
        is_gone = True
        if caller is not None:
            caller.cancel()

    watching = asyncio.create_task(watch())  # costs next to nothing where the work need not wait: it never begins
    try:
        return await work
    except asyncio.CancelledError:
        if is_gone and caller is not None and not caller.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()

"""Waiting for a node's answer: a node that hangs is found out long before the caller's patience ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from kato_gateway.domain.errors import GatewayError


class NodeLost(Exception):
    """The node that a route named did not take the call, or broke off before it had answered."""


@asynccontextmanager
async def vigil(is_lost: Callable[[], Awaitable[bool]], *, silent_s: float) -> AsyncIterator[None]:
    """Break off what is in the block once its node is known to be lost.

    Args:
        is_lost: asks after the node; called when the block has lasted so long, and again as long after each answer. It
            may raise GatewayError where nothing can be told.
        silent_s: how long, in seconds.

    Raises: NodeLost.
    """
    loop = asyncio.get_running_loop()
    asking: list[asyncio.Task[None]] = []

    async def ask() -> None:
        while True:
            with suppress(GatewayError):
                if await is_lost():
                    waiting.reschedule(loop.time())
                    return
            await asyncio.sleep(silent_s)

    timer = loop.call_later(silent_s, lambda: asking.append(loop.create_task(ask())))
    try:
        async with asyncio.timeout(None) as waiting:
            yield
    except TimeoutError:
        if waiting.expired():
            raise NodeLost from None
        raise
    finally:
        timer.cancel()
        for task in asking:
            task.cancel()

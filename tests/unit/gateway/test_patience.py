"""How long a forwarded call is waited for."""

from __future__ import annotations

import asyncio

import pytest

from kato_gateway.dataplane.attempts import Patience


async def test_patience_ends() -> None:
    """A call that shows no progress is given up."""
    with pytest.raises(TimeoutError):
        async with Patience(0.01).lasting():
            await asyncio.Event().wait()


async def test_progress_renews_patience() -> None:
    """A call that goes on showing progress is waited for beyond what one silent call is."""
    patience = Patience(0.5)
    loop = asyncio.get_running_loop()
    async with patience.lasting():
        began_s = loop.time()
        while loop.time() < began_s + 0.7:
            patience.renew()
            await asyncio.sleep(0)


async def test_nobody_waits_before_or_after() -> None:
    """Progress outside of the wait changes nothing."""
    patience = Patience(0.5)
    patience.renew()
    async with patience.lasting():
        pass
    patience.renew()

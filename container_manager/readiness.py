"""Whether a node is ready: a real GET /health, again and again, until it answers 200 or cannot any more."""

from __future__ import annotations

import asyncio

from container_manager.spec import Address

PROBE_TIMEOUT_S = 2.0
PAUSE_MIN_S = 0.005
PAUSE_MAX_S = 0.1
_STATUS_LINE_BYTES_MAX = 4096


class NodeEnded(Exception):
    """The node ended before it was healthy."""


class NeverHealthy(Exception):
    """The node did not answer its health check in time; the message says what it did instead."""


async def wait_until_healthy(address: Address, *, timeout_s: float, ended: asyncio.Future[None] | None = None) -> None:
    """Return once GET /health answered 200.

    That a connection opens proves nothing, since a proxy or the kernel may accept for a node that does not listen yet:
    a refusal, an empty reply and any other status mean try again.

    Args:
        ended: done when the node's process or container has ended; the wait stops at once then.
    Raises: NodeEnded, NeverHealthy.
    """
    probe = _Probe(address)
    task = asyncio.create_task(probe.repeat())
    try:
        watched: set[asyncio.Future[None]] = {task} if ended is None else {task, ended}
        done, _ = await asyncio.wait(watched, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ended in done:
            raise NodeEnded("it ended")
        if not done:
            raise NeverHealthy(f"no healthy answer within {timeout_s:g} s; last: {probe.last}")
        task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})


class _Probe:
    def __init__(self, address: Address) -> None:
        self.last = "no answer"
        self._address = address

    async def repeat(self) -> None:
        pause_s = PAUSE_MIN_S
        while not await self._is_healthy():
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _is_healthy(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                status = await _status_of(self._address)
        except TimeoutError:
            self.last = f"no answer for {PROBE_TIMEOUT_S:g} s"
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.last = f"{type(error).__name__}: {error}"
        else:
            self.last = f"status {status}"
            return status == 200
        return False


async def _status_of(address: Address) -> int:
    """Return the status of one GET /health.

    Raises: OSError, EOFError (an empty reply), ValueError or LimitOverrunError (not HTTP).
    """
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=_STATUS_LINE_BYTES_MAX)
    try:
        host = f"{address.host}:{address.port}"
        writer.write(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readuntil(b"\r\n")
        version, status, *_ = line.split()
        if not version.startswith(b"HTTP/"):
            raise ValueError("not an HTTP reply")
        return int(status)
    finally:
        writer.transport.abort()

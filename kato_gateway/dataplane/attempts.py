"""Trying until a node takes the call: resolve, try, and where the node was lost resolve again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from kato_gateway.dataplane.routes import Route
from kato_gateway.dataplane.vigil import NodeLost, vigil
from kato_gateway.domain.errors import GatewayError, NodeFailed, NodeTimeout
from kato_node.wire import logs

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the data plane bears.

    Attributes:
        kept_bytes_max: of a request's body, and of a reply's: up to there a broken call is repeated from memory.
        answer_s: from the whole (or kept) request to the reply's head, nodes that had to be woken included; from each
            piece of a streamed request anew.
        silence_s: between two pieces of a streamed reply, for the node to send one and for the client to take it.
        silent_s: of waiting for a reply's head, after which the node is asked whether it is there; and again.
        node_ping_s: between two pings to a WebSocket's node, which has half of it to answer.
        owed_max: messages of one WebSocket that its node has not answered yet; of `kept_bytes_max` together.
        connect_s: to a node's port.
        tries_max: nodes tried for one call.
        pause_s: before the second try with a new node; it doubles with each further one.
    """

    kept_bytes_max: int = 2**20
    answer_s: float = 60.0
    silence_s: float = 60.0
    silent_s: float = 5.0
    node_ping_s: float = 25.0
    owed_max: int = 256
    connect_s: float = 5.0
    tries_max: int = 6
    pause_s: float = 0.05


class Resolver(Protocol):
    """Who knows where sessions are; the lifecycle is one."""

    async def resolve(self, session_id: str, *, owner: str | None = None) -> Route:
        """Return the session's route, waking or starting a node where there is none.

        Args:
            owner: whose call it is; None without keys.
        Raises: GatewayError; SessionNotFound also if the session is another owner's.
        """

    async def lost(self, route: Route) -> None:
        """Hear that the node of this route was not reached, broke off or refused: verify it, and drop the route.

        Raises: GatewayError where nothing can be told.
        """

    async def is_lost(self, route: Route) -> bool:
        """Ask after the node of a call that has waited long: True once it is known to serve nobody.

        Raises: GatewayError where nothing can be told.
        """


class Usage(Protocol):
    """Who keeps account of the sessions' use."""

    def touch(self, session_id: str) -> None:
        """Hear that the session was called."""

    def begin(self, session_id: str) -> None:
        """Hear that a call of the session is open until `finish`."""

    def finish(self, session_id: str) -> None:
        """Hear that a call of the session that had begun is over."""


class Patience:
    """How long a call is waited for: so long from its beginning, and so long again after each sign of progress."""

    def __init__(self, answer_s: float) -> None:
        self._answer_s = answer_s
        self._timeout: asyncio.Timeout | None = None

    @asynccontextmanager
    async def lasting(self) -> AsyncIterator[None]:
        """Give up what is in the block once patience ends. Raises: TimeoutError."""
        try:
            async with asyncio.timeout(self._answer_s) as self._timeout:
                yield
        finally:
            self._timeout = None

    def renew(self) -> None:
        """Wait as long again; nothing if nobody waits."""
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._answer_s)


async def attempt(
    resolver: Resolver,
    session_id: str,
    call: Callable[[Route], Awaitable[T]],
    *,
    owner: str | None,
    limits: Limits,
    repeatable: Callable[[], bool],
    key: str | None = None,
    patience: Patience | None = None,
) -> T:
    """Make the call on the session's node; on NodeLost find the session a node again and repeat it.

    Args:
        repeatable: whether the call can be made once more, asked after each failure.
        key: what the client may repeat the call with, for the error's details.
        patience: of `limits.answer_s`, for a call that shows progress.
    Raises: NodeFailed, NodeTimeout, what `resolve` and `lost` raise, and what `call` raises besides NodeLost. Each
        GatewayError names the key, since an earlier try may have been applied without an answer.
    """
    details = {} if key is None else {"operation_id": key}
    again = "Repeat the call." if key is None else "Repeat it with the operation_id as Idempotency-Key."
    try:
        async with (patience or Patience(limits.answer_s)).lasting():
            for number in range(limits.tries_max):
                route = await resolver.resolve(session_id, owner=owner)
                facts = {"processor_id": route.processor_id, "epoch": route.epoch, "node_id": route.node_id}
                logs.context.set({**logs.context.get(), **facts})
                asking = partial(resolver.is_lost, route)
                try:
                    async with vigil(asking, silent_s=limits.silent_s):
                        return await call(route)
                except NodeLost:
                    await resolver.lost(route)
                    if not repeatable():
                        break
                    await asyncio.sleep(limits.pause_s * (2**number - 1))
    except GatewayError as error:
        error.details = {**error.details, **details}
        raise
    except TimeoutError:
        message = f"The session's node did not answer within {limits.answer_s:g} s. {again}"
        raise NodeTimeout(message, details=details) from None
    raise NodeFailed(f"The session's node broke off before it had answered. {again}", details=details)


async def report(resolver: Resolver, route: Route) -> None:
    """Have a route verified by the way: where nothing can be told of its node now, the next call asks again."""
    with suppress(GatewayError):
        await resolver.lost(route)

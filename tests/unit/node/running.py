"""A node on a store in memory, and what tests ask of both. A node that leaves a task behind fails its test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

from kato_node.domain.config import DEFAULT, Config
from kato_node.domain.limits import LIMITS, Limits
from kato_node.domain.observation import Observation
from kato_node.node import DRAIN_MAX_S, UNASKED_MAX_S, BindSpec, Node
from kato_node.service import Reply, RetryKey
from kato_node.store.base import SessionRecord, Store
from kato_node.store.memory import MemoryDisk, MemoryStore

PROCESSOR = "p"


class Clock:
    """A clock that a test turns; it counts the looks at it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now_s


def new_node(
    disk: MemoryDisk,
    *,
    defaults: Config = DEFAULT,
    limits: Limits = LIMITS,
    clock: Callable[[], float] | None = None,
    open_store: Callable[[str], Store] | None = None,
    unasked_max_s: float = UNASKED_MAX_S,
    drain_max_s: float = DRAIN_MAX_S,
) -> Node:
    """Return a node that is not bound yet."""
    return Node(
        node_id="node-1",
        open_store=open_store or (lambda processor_id: MemoryStore(disk, processor_id)),
        defaults=defaults,
        limits=limits,
        clock_s=clock or Clock(),
        unasked_max_s=unasked_max_s,
        drain_max_s=drain_max_s,
    )


@asynccontextmanager
async def running(
    disk: MemoryDisk | None = None,
    *,
    sessions: Sequence[str] = (),
    spec: BindSpec | None = None,
    defaults: Config = DEFAULT,
    limits: Limits = LIMITS,
    clock: Callable[[], float] | None = None,
    open_store: Callable[[str], Store] | None = None,
) -> AsyncIterator[Node]:
    """Bind a node, with these sessions open; drain it afterwards, and see that no task of it is left."""
    others = asyncio.all_tasks()
    node = new_node(disk or MemoryDisk(), defaults=defaults, limits=limits, clock=clock, open_store=open_store)
    await node.bind(spec or BindSpec(processor_id=PROCESSOR))
    for session_id in sessions:
        await node.service.open_session(session_id, incarnation="1", overrides={})
    try:
        yield node
    finally:
        await node.drain()
        await until(lambda: asyncio.all_tasks() <= others)


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


def seen(*strings: str, **fields: object) -> Observation:
    """Return an observation of these strings."""
    return Observation(strings=strings, **fields)  # type: ignore[arg-type]


def key(name: str, body: str = "body") -> RetryKey:
    """Return a retry key."""
    return RetryKey(key=name, body_hash=body)


async def observe_all(node: Node, session_id: str | None, *symbols: str) -> None:
    """Observe the symbols, one event each."""
    for symbol in symbols:
        await node.service.observe(session_id, seen(symbol))


async def stm(node: Node, session_id: str | None = None) -> list[list[str]]:
    """Return the session's STM as the node answers it."""
    events = cast("Sequence[Sequence[str]]", (await node.reads.stm(session_id))["stm"])
    return [list(event) for event in events]


async def answers(node: Node, session_id: str | None = None) -> dict[str, Reply]:
    """Return everything that the node answers of the session and its LTM, but for what tells of the node itself."""
    status = await node.reads.status(session_id)
    for name in ("uptime", "epoch"):
        del status[name]
    return {
        "status": status,
        "stm": await node.reads.stm(session_id),
        "percept": await node.reads.percept_data(session_id),
        "cognition": await node.reads.cognition_data(session_id),
        "predictions": await node.reads.predictions(session_id),
        "genes": await node.reads.genes(session_id),
    }


async def frequency(node: Node, pattern_id: str) -> object:
    """Return the pattern's frequency."""
    return cast("Reply", (await node.reads.pattern(pattern_id))["pattern"])["frequency"]


async def stored(disk: MemoryDisk, session_id: str = "default") -> SessionRecord | None:
    """Return the session as the store has it."""
    store = MemoryStore(disk, PROCESSOR)
    await store.open()
    return await store.load_session(session_id)


async def gather(*calls: Awaitable[object]) -> list[object]:
    """Run the calls at once; return their results and errors."""
    return await asyncio.gather(*calls, return_exceptions=True)

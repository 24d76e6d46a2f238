"""A process that lives on a SQLite file and says what was acknowledged, until it is killed.

Each session goes round: observe, observe, learn. A line on stdout: the session, and how many calls were acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from kato_node.domain.config import DEFAULT
from kato_node.domain.limits import LIMITS
from kato_node.domain.observation import Observation
from kato_node.node import BindSpec, Node
from kato_node.store.sqlite import SqliteStore

SESSIONS = tuple(f"s{number}" for number in range(4))
SYMBOLS = ("a", "b")


def new_node(path: Path) -> Node:
    """Return a node on this file, not bound yet."""
    return Node(
        node_id="node-1",
        open_store=lambda processor_id: SqliteStore(path, processor_id),
        defaults=DEFAULT,
        limits=LIMITS,
    )


async def live(node: Node, session_id: str) -> None:
    """Go round for ever, from where the session stands."""
    view = await node.service.open_session(session_id, incarnation="1", overrides={})
    acknowledged = calls_made(view.time, view.stm_length)
    while True:
        step = acknowledged % 3
        if step < 2:
            await node.service.observe(session_id, Observation(strings=[SYMBOLS[step]]))
        else:
            await node.service.learn(session_id)
        acknowledged += 1
        sys.stdout.write(f"{session_id} {acknowledged}\n")
        sys.stdout.flush()


def calls_made(time: int, stm_length: int) -> int:
    """Return how many calls led to this place in time: three for every two observations, learns included."""
    return time + (time - stm_length) // 2


async def main(path: Path) -> None:
    """Live until killed."""
    node = new_node(path)
    await node.bind(BindSpec(processor_id="p"))
    await asyncio.gather(*(live(node, session_id) for session_id in SESSIONS))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

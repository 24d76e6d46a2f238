"""A process that observes on a SQLite file, and stops itself (SIGSTOP) at a named point of a commit.

    python -m tests.integration.node.stopper FILE POINT

It observes `before` and is heard of; then it observes `during`, stopping at the point; once it is continued it says on
stdout what became of that call and of one more, `after`, a line each: the call, and "acknowledged" or the error's code;
and at last why it ended.
Points: before_begin, in_transaction, before_commit, after_commit.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from kato_node.domain.config import DEFAULT
from kato_node.domain.limits import LIMITS
from kato_node.domain.ltm import LtmChange
from kato_node.domain.observation import Observation
from kato_node.errors import ServiceError
from kato_node.node import BindSpec, Node
from kato_node.store.base import StoreError
from kato_node.store.documents import SessionDelta
from kato_node.store.sqlite import SqliteStore

POINTS = ("before_begin", "in_transaction", "before_commit", "after_commit")


class StoppingStore(SqliteStore):
    """A store that stops its process, once, at the point that is armed."""

    armed = ""

    def _commit(self, sessions: Sequence[SessionDelta], ltm: LtmChange, epoch: int) -> None:
        self._pass("before_begin")
        super()._commit(sessions, ltm, epoch)
        self._pass("after_commit")

    def _fence(self, connection: sqlite3.Connection, epoch: int) -> None:
        super()._fence(connection, epoch)
        self._pass("in_transaction")

    def _end(self, connection: sqlite3.Connection) -> None:
        self._pass("before_commit")
        super()._end(connection)

    def _pass(self, point: str) -> None:
        if self.armed == point:
            self.armed = ""
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread first: it goes no further


def say(*words: str) -> None:
    """Write a line on stdout."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def main(path: Path, point: str) -> None:
    """Observe, stop, go on."""
    store = StoppingStore(path, "p")
    node = Node(node_id="first", open_store=lambda _: store, defaults=DEFAULT, limits=LIMITS)
    await node.bind(BindSpec(processor_id="p"))
    service = node.service
    await service.open_session("s", incarnation="1", overrides={})
    for name in ("before", "during", "after"):
        store.armed = point if name == "during" else ""
        try:
            await service.observe("s", Observation(strings=[name]))
            outcome = "acknowledged"
        except (ServiceError, StoreError) as error:
            outcome = error.code
        say(name, outcome)
    await node.drain()
    say("ended", str(node.stop_reason))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

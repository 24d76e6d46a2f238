"""Mistakes that the harness must find, planted while it runs and never in the product's code (`CHAOS_PLANT=name`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

from kato_node import turns
from kato_node.api import app, routes
from kato_node.sessions import Session
from kato_node.store import memory
from kato_node.turns import Turns
from kato_node.writer import Writer


@contextmanager
def _fence_off() -> Iterator[None]:
    """A commit passes whoever owns the epoch by then."""
    write = memory.MemoryDisk.write

    def unfenced(disk: memory.MemoryDisk, processor_id: str, batch: Any, *, epoch: int) -> None:
        write(disk, processor_id, batch, epoch=disk.processor(processor_id).epoch)

    with mock.patch.object(memory.MemoryDisk, "write", unfenced):
        yield


@contextmanager
def _operation_memory_off() -> Iterator[None]:
    """A session remembers no operation."""
    with mock.patch.object(turns, "_remembering", return_value=()):
        yield


@contextmanager
def _assign_before_commit() -> Iterator[None]:
    """Memory follows what was decided, before the store has it."""
    decided = Writer._accepted

    def accepted(self: Writer, batch: Any) -> tuple[list[Any], Sequence[Any]]:
        waiting, rest = decided(self, batch)
        for one in waiting:
            for change in one.ltm:
                self._ltm.apply(change)
            one.change.apply()
        return waiting, rest

    def confirmed(_self: Writer, waiting: Any) -> None:
        for one in waiting:
            if not one.done.done():
                one.done.set_result(None)

    with mock.patch.object(Writer, "_accepted", accepted), mock.patch.object(Writer, "_apply", confirmed):
        yield


@contextmanager
def _unshielded_commit() -> Iterator[None]:
    """A caller that leaves takes its commit with it."""

    async def run(self: Turns, session: Session, work: Callable[[], Coroutine[None, None, Any]]) -> Any:
        self._sessions.admit(session)
        return await self._in_turn(session, work)

    with mock.patch.object(Turns, "run", run):
        yield


@contextmanager
def _wrong_node_check_off() -> Iterator[None]:
    """A node takes every call, whoever it is meant for."""

    async def anybody(*_: object) -> None:
        await asyncio.sleep(0)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(app.IdentityGate, "_refusal", return_value=None))
        stack.enter_context(mock.patch.object(routes, "met", anybody))
        yield


PLANTS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "fence-off": _fence_off,
    "operation-memory-off": _operation_memory_off,
    "assign-before-commit": _assign_before_commit,
    "unshielded-commit": _unshielded_commit,
    "421-check-off": _wrong_node_check_off,
}

"""One run of the simulation: the plan's clients against a simulated world, in which the plan's faults happen."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest import mock

from kato_gateway.domain.sessions import NodeState
from kato_gateway.registry.memory import MemoryRegistry
from kato_node.node import UNASKED_MAX_S
from tests.chaos.checker import check
from tests.chaos.client import Client, Unusable, audit
from tests.chaos.history import History
from tests.chaos.plan import Fault, Plan, drawn
from tests.chaos.report import Outcome
from tests.chaos.sim.faults import DRAWN, FAULTS
from tests.chaos.sim.line import DOORS, SimLine
from tests.chaos.sim.process import VirtualLoop
from tests.chaos.sim.world import POLICY, World

PATIENCE_S = 400.0
QUIET_S = 15.0
START_S_MAX = 5.0
STEPS_PER_CALL = 60


def run(seed: int) -> Outcome:
    """Run the seed's plan; the same each time."""
    plan = drawn(seed, doors=tuple(DOORS), faults=DRAWN)
    with _silent(), _chosen(seed), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_Run(plan).outcome())


class _Run:
    """One plan in one world."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._world = World(plan.seed)
        self._history = History()
        self._happened: list[str] = []
        self._calls = 0
        self._ends: list[Callable[[], None]] = []

    async def outcome(self) -> Outcome:
        world = self._world
        await world.start_gateway().ready
        clients = [
            Client(SimLine(world, plan.door), plan, self._history, invoked=self._invoked, patience_s=PATIENCE_S)
            for plan in self._plan.sessions
        ]
        words = await self._worked(clients, [plan.script for plan in self._plan.sessions])
        self._heal()
        await asyncio.sleep(QUIET_S - START_S_MAX)
        starting = await self._starting()
        await asyncio.sleep(START_S_MAX)
        epochs, orphans, more = await self._belonging(starting)
        self._world.kill_nodes()  # what is found then is what was stored
        for client, plan in zip(clients, self._plan.sessions, strict=True):
            words += await self._worked([client], [audit(plan, self._history)])
        unusable = len(words)
        left = await self._left()
        return Outcome(
            ground="sim",
            seed=self._plan.seed,
            findings=check(self._history.calls),
            orphans=orphans + len(left),
            epochs=epochs,
            unusable=unusable,
            calls=len(self._history.calls),
            faults=tuple(self._happened),
            words=(*words, *more, *left),
        )

    async def _worked(self, clients: list[Client], scripts: list[Any]) -> list[str]:
        """Have every client do its part; return the words of those that could not."""
        works = [client.work(script) for client, script in zip(clients, scripts, strict=True)]
        results = await asyncio.gather(*works, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Unusable):
                raise result
        return [f"unusable: {result}" for result in results if isinstance(result, Unusable)]

    def _invoked(self) -> None:
        """Have happen what is due with this call."""
        for fault in self._plan.faults:
            if fault.at_call == self._calls:
                self._begin(fault)
        self._calls += 1

    def _begin(self, fault: Fault) -> None:
        session = self._plan.sessions[fault.session]
        steps = int(fault.delay**2 * STEPS_PER_CALL)

        def ends(at_s: float, end: Callable[[], None]) -> None:
            pending = [end]

            def once() -> None:
                while pending:
                    pending.pop()()

            self._ends.append(once)
            asyncio.get_running_loop().call_later(at_s, once)

        FAULTS[fault.name](self._world, session.processor_id, steps, fault.lasts_s, ends)
        self._happened.append(str(fault))

    def _heal(self) -> None:
        """End whatever still goes wrong."""
        while self._ends:
            self._ends.pop(0)()
        world = self._world
        world.start_troubles.clear()
        world.network.swallowed = world.answers_lost = 0
        for troubles in world.troubles.values():
            troubles.at_commit.clear()
        assert world.gateway is not None
        for process in (*world.processes.values(), world.gateway.process):
            process.disarm()
            process.resume()

    async def _starting(self) -> frozenset[str]:
        """Return the nodes that live and are on record as being started."""
        records = await MemoryRegistry(self._world.tables).nodes()
        creating = {record.node_id for record in records if record.state is NodeState.CREATING}
        return frozenset(node_id for node_id in creating if self._alive(node_id))

    def _alive(self, node_id: str) -> bool:
        process = self._world.processes.get(node_id)
        return process is not None and process.alive

    async def _belonging(self, starting: frozenset[str]) -> tuple[int, int, list[str]]:
        """Return how many processors have two owners, how many nodes belong to nobody, and words for both."""
        world = self._world
        records = {record.node_id: record for record in await MemoryRegistry(world.tables).nodes()}
        alive = {node_id: process for node_id, process in world.processes.items() if process.alive}
        owners: dict[str, list[str]] = {}
        orphans, words = 0, []
        for node_id in alive:
            node, record = world.nodes[node_id], records.get(node_id)
            if node_id in world.cut_off:  # nobody can end it: it finds out by itself
                continue
            if node.state == "bound":
                owners.setdefault(node.service.processor_id, []).append(node_id)
            just_begun = record is not None and record.state is NodeState.CREATING and node_id not in starting
            if record is None or not (just_begun or record.state in {NodeState.POOL, NodeState.BOUND}):
                orphans += 1
                words.append(f"orphan: {node_id} {node.state}, recorded as {record and record.state}")
        doubled = [f"two epochs: {name}: {ids}" for name, ids in owners.items() if len(ids) > 1]
        return len(doubled), orphans, words + doubled

    async def _left(self) -> list[str]:
        """Stop the gateway; return words for each node that outlives it."""
        world, gateway = self._world, self._world.gateway
        assert gateway is not None
        assert gateway.process.alive
        await gateway.process.run(gateway.lifecycle.stop())
        await asyncio.sleep(QUIET_S if not world.cut_off else QUIET_S + max(UNASKED_MAX_S, POLICY.idle_timeout_s))
        return [f"orphan: {node_id} outlived everything" for node_id, one in world.processes.items() if one.alive]


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the logs of what goes wrong to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _chosen(seed: int) -> Iterator[None]:
    """Have ids and pauses follow from the seed."""
    chance = Random(f"{seed}/ids")
    random.seed(f"{seed}/pauses")
    with mock.patch.object(secrets, "token_hex", lambda length=16: chance.randbytes(length).hex()):
        yield

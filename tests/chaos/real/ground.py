"""Runs in a real installation: a batch of plans, one after the other, in one home."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import aiohttp

from tests.chaos.checker import check
from tests.chaos.client import Client, Unusable, audit
from tests.chaos.history import History
from tests.chaos.operations import Op
from tests.chaos.plan import Fault, Plan, drawn
from tests.chaos.real import points
from tests.chaos.real.faults import Scene, drawn_from, faults_of
from tests.chaos.real.home import Home, eventually, identity, serving
from tests.chaos.real.line import DOORS, DOORS_OF_CONTAINERS, RealLine
from tests.chaos.real.storage import SqliteFiles, Storage, directory, mongo, mongo_of_containers
from tests.chaos.report import Outcome
from tests.engine import IMAGE

BATCH = 25
PATIENCE_S = 120.0
"""What a killed gateway had locked in MongoDB is locked until its transaction's time is over: 60 s as a rule."""
GONE_WITHIN_S = 15.0
LASTS_S_MAX = 2.0
OPERATION_S = 0.02
"""About how long an operation takes: within it faults are spread."""


def run(seeds: Sequence[int], plant: str = "") -> Iterator[Outcome]:
    """Run the plans of these seeds on processes: 25 with files, 25 with files on a small disk, 25 with MongoDB, …"""
    kinds = (_on_files, _on_small_disk, _on_mongo)
    for block, batch in groupby(seeds, lambda seed: seed // BATCH):
        yield from asyncio.run(kinds[block % len(kinds)](list(batch), plant))


def run_in_containers(seeds: Sequence[int], _plant: str = "") -> Iterator[Outcome]:
    """Run the plans of these seeds on Docker. Raises: RuntimeError without an engine and the images."""
    for first in range(0, len(seeds), BATCH):
        yield from asyncio.run(_in_containers(seeds[first : first + BATCH]))


async def _on_files(seeds: Sequence[int], plant: str, *, small_disk: bool = False) -> list[Outcome]:
    with directory(small_disk=small_disk) as path:
        return await _batch(seeds, path, SqliteFiles(path / "home"), plant=plant)


async def _on_small_disk(seeds: Sequence[int], plant: str) -> list[Outcome]:
    return await _on_files(seeds, plant, small_disk=True)


async def _on_mongo(seeds: Sequence[int], plant: str) -> list[Outcome]:
    with directory(small_disk=False) as path:
        async with mongo(path) as storage:
            return await _batch(seeds, path, storage, plant=plant)


async def _in_containers(seeds: Sequence[int]) -> list[Outcome]:
    with directory(small_disk=False) as path, mongo_of_containers(IMAGE) as storage:
        return await _batch(seeds, path, storage, ground="docker", doors=DOORS_OF_CONTAINERS)


async def _batch(
    seeds: Sequence[int],
    path: Path,
    storage: Storage,
    *,
    plant: str = "",
    ground: str = "real",
    doors: Sequence[str] = DOORS,
) -> list[Outcome]:
    if plant:
        points.plant(path / "home", plant)
    outcomes = []
    async with serving(path / "home", storage) as home, aiohttp.ClientSession() as http:
        for seed in seeds:
            names = drawn_from(home)
            plan = drawn(seed, doors=doors, faults=names, prefix=f"r{seed}-", lasts_s_max=LASTS_S_MAX)
            outcomes.append(await Run(plan, home, http, ground=ground).outcome())
        outcomes[-1] = await _ended(outcomes[-1], home)
    return outcomes


async def _ended(last: Outcome, home: Home) -> Outcome:
    """Stop the gateway; what is left then is the last run's."""
    status = await home.stop()
    with contextlib.suppress(AssertionError):
        await eventually(lambda: not home.processes(), "the end of every process", within_s=GONE_WITHIN_S)
    words = [f"orphan: {' '.join(process.cmdline())[:200]} outlived everything" for process in home.processes()]
    words += [f"orphan: node {node_id} outlived everything" for node_id in await home.nodes()]
    if status != 0:
        words.append(f"the gateway ended with {status}")
    return last.also(orphans=len(words), words=words)


class Run:
    """One plan in a home."""

    def __init__(self, plan: Plan, home: Home, http: aiohttp.ClientSession, *, ground: str = "real") -> None:
        self._plan = plan
        self._home = home
        self._http = http
        self._ground = ground
        self._history = History()
        self._chance = random.Random(f"{plan.seed}/real")
        self._calls = 0
        self._lines = [RealLine(home.url, session.door, http) for session in plan.sessions]
        self._faults: list[asyncio.Task[None]] = []
        self._happened: list[str] = []

    async def outcome(self) -> Outcome:
        """Run it."""
        clients = [
            Client(line, plan, self._history, invoked=self._invoked, patience_s=PATIENCE_S)
            for line, plan in zip(self._lines, self._plan.sessions, strict=True)
        ]
        words = await self._worked(
            (client, plan.script) for client, plan in zip(clients, self._plan.sessions, strict=True)
        )
        await self._heal()
        for client, plan in zip(clients, self._plan.sessions, strict=True):
            words += await self._worked([(client, audit(plan, self._history))])
        unusable = len(words)
        epochs = await self._epochs()
        for client in clients:
            words += await self._worked([(client, [Op(kind="end")])])
        orphans = await self._orphans()
        for line in self._lines:
            await line.close()
        return Outcome(
            ground=self._ground,
            seed=self._plan.seed,
            findings=check(self._history.calls),
            orphans=len(orphans),
            epochs=len(epochs),
            unusable=unusable,
            calls=len(self._history.calls),
            faults=tuple(self._happened),
            words=(*words, *epochs, *orphans),
        )

    async def _worked(
        self, works: Iterator[tuple[Client, Sequence[Op]]] | list[tuple[Client, Sequence[Op]]]
    ) -> list[str]:
        """Have every client do its part; return the words of those that could not."""
        results = await asyncio.gather(*(client.work(script) for client, script in works), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Unusable):
                raise result
        return [f"unusable: {result}" for result in results if isinstance(result, Unusable)]

    def _invoked(self) -> None:
        """Have happen what is due with this call."""
        for fault in self._plan.faults:
            if fault.at_call == self._calls:
                self._faults.append(asyncio.create_task(self._happens(fault)))
        self._calls += 1

    async def _happens(self, fault: Fault) -> None:
        await asyncio.sleep(fault.delay * OPERATION_S)
        scene = Scene(
            home=self._home,
            session=self._plan.sessions[fault.session],
            line=self._lines[fault.session],
            lasts_s=fault.lasts_s,
            chance=self._chance,
            node_pid=self._node_pid,
            happened=lambda: self._happened.append(str(fault)),
        )
        await faults_of(self._home)[fault.name](scene)

    async def _heal(self) -> None:
        """Wait for the end of whatever goes wrong, and end the run's nodes: what is found then is what was stored."""
        await asyncio.gather(*self._faults)
        for line in self._lines:
            line.answers_lost, line.hurry_s = 0, None
        for processor_id in self._processors():
            points.withdraw(self._home.path, processor_id)
            pid = await self._node_pid(processor_id)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _processors(self) -> list[str]:
        return sorted({session.processor_id for session in self._plan.sessions})

    async def _node_pid(self, processor_id: str) -> int | None:
        return await self._home.pid_of(self._http, processor_id)

    async def _epochs(self) -> list[str]:
        """Ask every node whom it serves; return words for each processor that two of them serve."""
        owners: Counter[str] = Counter()

        async def one_each() -> bool:
            owners.clear()
            served = [await self._served(node.port) for node in (await self._home.nodes()).values()]
            owners.update(name for name in served if name is not None)
            return max(owners.values(), default=0) <= 1

        with contextlib.suppress(AssertionError):
            await eventually(one_each, "one node for each processor", within_s=GONE_WITHIN_S)
        return [f"two epochs: {name}" for name, count in owners.items() if count > 1]

    async def _served(self, port: int) -> str | None:
        try:
            timeout = aiohttp.ClientTimeout(total=2.0)
            async with self._http.get(f"http://127.0.0.1:{port}/health", timeout=timeout) as reply:
                return identity(await reply.read())
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def _orphans(self) -> list[str]:
        """Wait until only members of the pool are left; return words for the others that stay."""

        async def others() -> list[str]:
            members = await self._members()
            return sorted(node_id for node_id in await self._home.nodes() if node_id not in members)

        async def are_gone() -> bool:
            return not await others()

        with contextlib.suppress(AssertionError):
            await eventually(are_gone, "only the pool", within_s=GONE_WITHIN_S)
        return [f"orphan: {node_id}" for node_id in await others()]

    async def _members(self) -> set[str]:
        """Return the nodes that the gateway has in its pool."""
        async with self._http.get(f"{self._home.url}/nodes") as reply:
            nodes = (await reply.json())["nodes"]
        return {node["node_id"] for node in nodes if node["state"] == "pool"}

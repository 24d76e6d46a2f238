"""What goes wrong in a real installation, by name: each makes it happen and, where it lasts, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil

from tests.chaos.plan import SessionPlan
from tests.chaos.real import points
from tests.chaos.real.home import Home
from tests.chaos.real.line import RealLine
from tests.chaos.real.storage import taken_over
from tests.processes import fork_servers_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where a fault happens.

    Attributes:
        session: the one whose node is concerned; line: its client's.
        lasts_s: how long, where it lasts.
        happened: to be called with words once it really has.
    """

    home: Home
    session: SessionPlan
    line: RealLine
    lasts_s: float
    chance: random.Random
    node_pid: Callable[[str], Awaitable[int | None]]
    happened: Callable[[], None]


Happens = Callable[[Scene], Awaitable[None]]


async def _signalled(scene: Scene, number: signal.Signals) -> int | None:
    """Send the session's node a signal; return its pid, None if there is none."""
    pid = await scene.node_pid(scene.session.processor_id)
    if pid is None:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        scene.happened()
    return pid


async def _kill_node(scene: Scene) -> None:
    await _signalled(scene, signal.SIGKILL)


async def _drain_node(scene: Scene) -> None:
    await _signalled(scene, signal.SIGTERM)


@asynccontextmanager
async def _stopped(scene: Scene) -> AsyncIterator[None]:
    """Have the session's node stand still."""
    pid = await _signalled(scene, signal.SIGSTOP)
    try:
        yield
    finally:
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def _stop_node(scene: Scene) -> None:
    async with _stopped(scene):
        await asyncio.sleep(scene.lasts_s)


async def _take_over(scene: Scene) -> None:
    """Somebody else takes the processor while its node stands still, and is gone when it goes on."""
    scene.line.hurry_s = 0.5
    async with _stopped(scene):
        await taken_over(scene.home.storage, scene.session.processor_id)
        await asyncio.sleep(min(scene.lasts_s, 0.3))
    scene.line.hurry_s = None


async def _kill_gateway(scene: Scene) -> None:
    gateway = scene.home.gateway
    if gateway is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            gateway.kill()
            scene.happened()


async def _kill_in_recovery(scene: Scene) -> None:
    """The gateway dies, and the next one while it starts."""
    await _kill_gateway(scene)
    await asyncio.sleep(0.4 + scene.chance.random())
    await _kill_gateway(scene)


async def _stop_gateway(scene: Scene) -> None:
    gateway = scene.home.gateway
    if gateway is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        gateway.suspend()
        scene.happened()
        try:
            await asyncio.sleep(scene.lasts_s)
        finally:
            gateway.resume()


async def _kill_fork_server(scene: Scene) -> None:
    for pid in fork_servers_of(scene.home.path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            scene.happened()


def _at(point: str) -> Happens:
    async def happens(scene: Scene) -> None:
        points.order(scene.home.path, scene.session.processor_id, point)
        scene.happened()

    return happens


async def _slow_storage(scene: Scene) -> None:
    points.order(scene.home.path, scene.session.processor_id, points.SLOW)
    scene.happened()
    try:
        await asyncio.sleep(scene.lasts_s)
    finally:
        points.withdraw(scene.home.path, scene.session.processor_id, [points.SLOW])


async def _hang_up(scene: Scene) -> None:
    """While commits take their time, the client does not have it."""
    scene.line.hurry_s = 0.2
    try:
        await _slow_storage(scene)
    finally:
        scene.line.hurry_s = None


def _trouble(name: str) -> Happens:
    """Return what goes wrong with the storage under that name."""

    async def happens(scene: Scene) -> None:
        async with scene.home.storage.troubles[name](scene.session.processor_id) as has_happened:
            if has_happened:
                scene.happened()
                await asyncio.sleep(scene.lasts_s)

    return happens


async def _lost_answer(scene: Scene) -> None:
    scene.line.answers_lost += 1
    scene.happened()


ANYWHERE: Mapping[str, Happens] = {
    "kill-node": _kill_node,
    "drain-node": _drain_node,
    "stop-node": _stop_node,
    "take-over": _take_over,
    "kill-gateway": _kill_gateway,
    "kill-in-recovery": _kill_in_recovery,
    "stop-gateway": _stop_gateway,
    "lost-answer": _lost_answer,
}
ON_PROCESSES: Mapping[str, Happens] = {
    **ANYWHERE,
    "kill-fork-server": _kill_fork_server,
    **{point: _at(point) for point in points.POINTS},
    "slow-storage": _slow_storage,
    "hang-up": _hang_up,
}
# What costs a gateway's start is drawn less often than these.
CHEAP = ("kill-node", "before-commit", "after-commit", "lost-commit-reply", "lost-reply", "hang-up", "take-over")


def faults_of(home: Home) -> Mapping[str, Happens]:
    """Return all that can go wrong in that home, by name; the same for all homes of its kind."""
    troubles = {name: _trouble(name) for name in home.storage.troubles}
    return {**(ANYWHERE if home.in_containers else ON_PROCESSES), **troubles}


def drawn_from(home: Home) -> Sequence[str]:
    """Return the names to draw from."""
    faults = faults_of(home)
    return [*faults, *(name for name in (*CHEAP, *CHEAP) if name in faults)]

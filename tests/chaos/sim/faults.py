"""What can go wrong in a simulated world, by name.

Each fault is told of the world, the processor that it concerns, after how many steps of the process concerned it
happens, how long it lasts, and how to have its end happen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from tests.chaos.sim.process import Process
from tests.chaos.sim.world import RESTART_S, World, void

Ends: TypeAlias = Callable[[float, Callable[[], None]], None]
Happens: TypeAlias = Callable[[World, str, int, float, Ends], None]


def _node_of(world: World, processor_id: str) -> Process | None:
    """Return the newest process that serves the processor."""
    for node_id, process in reversed(world.processes.items()):
        node = world.nodes.get(node_id)
        if not process.alive or node_id in world.cut_off or node is None or node.state != "bound":
            continue
        if node.service.processor_id == processor_id:
            return process
    return None


def _kill_node(world: World, processor_id: str, steps: int, _lasts_s: float, _ends: Ends) -> None:
    process = _node_of(world, processor_id)
    if process is not None:
        process.after(steps, process.kill)


def _stop_node(world: World, processor_id: str, steps: int, lasts_s: float, ends: Ends) -> None:
    """SIGSTOP, and SIGCONT later."""
    process = _node_of(world, processor_id)
    if process is not None:
        process.after(steps, lambda: _standstill(process, lasts_s, ends))


def _standstill(process: Process, lasts_s: float, ends: Ends) -> None:
    process.stop()
    ends(lasts_s, process.resume)


def _cut_off_node(world: World, processor_id: str, steps: int, lasts_s: float, ends: Ends) -> None:
    """The node stands still, is taken for dead and replaced, and goes on."""
    process = _node_of(world, processor_id)
    if process is None:
        return
    node_id = process.name.removeprefix("node-")

    def happens() -> None:
        _standstill(process, lasts_s, ends)
        world.take_for_dead(node_id)

    process.after(steps, happens)


def _cut_off_at_commit(world: World, processor_id: str, _steps: int, lasts_s: float, ends: Ends) -> None:
    """The same with a commit on its way, while nobody waits for it."""

    def happens(process: Process) -> None:
        _standstill(process, lasts_s, ends)
        world.take_for_dead(process.name.removeprefix("node-"))
        _hurry(world, lasts_s, ends)

    world.troubles[processor_id].at_commit.append(happens)


def _drain_node(world: World, processor_id: str, steps: int, _lasts_s: float, _ends: Ends) -> None:
    """SIGTERM."""
    process = _node_of(world, processor_id)
    if process is not None:
        node = world.nodes[process.name.removeprefix("node-")]
        process.after(steps, lambda: None if not process.alive else void(process.run(node.drain())))


def _swap_ports(world: World, processor_id: str, _steps: int, _lasts_s: float, _ends: Ends) -> None:
    """Every node dies and nobody is told; the next to start listen where they did."""
    world.kill_nodes()


def _gateway(world: World) -> Process | None:
    gateway = world.gateway
    return gateway.process if gateway is not None and gateway.process.alive else None


def _kill_gateway(world: World, _processor_id: str, steps: int, _lasts_s: float, _ends: Ends) -> None:
    process = _gateway(world)
    if process is not None:
        process.after(steps, process.kill)


def _kill_in_recovery(world: World, _processor_id: str, steps: int, _lasts_s: float, ends: Ends) -> None:
    """The gateway dies, and the next one while it finds out what runs."""
    process = _gateway(world)
    if process is None:
        return
    process.kill()

    def again() -> None:
        following = _gateway(world)
        if following is not None:
            following.after(3 * steps, following.kill)

    ends(RESTART_S + 1e-6, again)


def _end_gateway(world: World, _processor_id: str, _steps: int, _lasts_s: float, _ends: Ends) -> None:
    """SIGTERM; another one is started."""
    gateway = world.gateway
    if gateway is None or not gateway.process.alive:
        return

    async def ended() -> None:
        await gateway.lifecycle.stop()
        gateway.process.kill()

    void(gateway.process.run(ended()))


def _kill_in_end(world: World, processor_id: str, steps: int, lasts_s: float, ends: Ends) -> None:
    """SIGTERM, and death before everything is in order."""
    _end_gateway(world, processor_id, steps, lasts_s, ends)
    _kill_gateway(world, processor_id, 3 * steps, lasts_s, ends)


def _stop_gateway(world: World, _processor_id: str, steps: int, lasts_s: float, ends: Ends) -> None:
    process = _gateway(world)
    if process is not None:
        process.after(steps, lambda: _standstill(process, lasts_s, ends))


def _at_commit(point: str) -> Happens:
    def happens(world: World, processor_id: str, _steps: int, _lasts_s: float, _ends: Ends) -> None:
        world.troubles[processor_id].at_commit.append(point)

    return happens


def _slow_storage(world: World, processor_id: str, _steps: int, lasts_s: float, ends: Ends) -> None:
    troubles = world.troubles[processor_id]
    troubles.delay_s = 1.5
    ends(lasts_s, lambda: setattr(troubles, "delay_s", 0.0))


def _cut_storage(world: World, processor_id: str, _steps: int, lasts_s: float, ends: Ends) -> None:
    troubles = world.troubles[processor_id]
    troubles.is_cut_off = True
    ends(lasts_s, lambda: setattr(troubles, "is_cut_off", False))


def _full_disk(world: World, processor_id: str, _steps: int, lasts_s: float, ends: Ends) -> None:
    troubles = world.troubles[processor_id]
    troubles.is_full = True
    ends(lasts_s, lambda: setattr(troubles, "is_full", False))


def _cut_registry(world: World, _processor_id: str, _steps: int, lasts_s: float, ends: Ends) -> None:
    world.is_registry_cut = True
    ends(min(lasts_s, 20.0), lambda: setattr(world, "is_registry_cut", False))


def _engine_away(world: World, _processor_id: str, _steps: int, lasts_s: float, ends: Ends) -> None:
    world.engine.knobs.is_out_of_reach = True
    ends(lasts_s, lambda: setattr(world.engine.knobs, "is_out_of_reach", False))


def _bad_starts(world: World, _processor_id: str, steps: int, _lasts_s: float, _ends: Ends) -> None:
    world.start_troubles += (["fails"], ["loses-reply"], ["dies"], ["loses-reply", "fails"])[steps % 4]  # type: ignore[arg-type]


def _lost_reply(world: World, _processor_id: str, _steps: int, _lasts_s: float, _ends: Ends) -> None:
    world.network.swallowed += 1


def _lost_answer(world: World, _processor_id: str, _steps: int, _lasts_s: float, _ends: Ends) -> None:
    world.answers_lost += 1


def _clock_jump(world: World, _processor_id: str, steps: int, _lasts_s: float, _ends: Ends) -> None:
    world.clock.ahead_s += (-4_000.0, -30.0, 30.0, 4_000.0)[steps % 4]


def _hang_up(world: World, processor_id: str, steps: int, lasts_s: float, ends: Ends) -> None:
    """While commits take their time, clients do not have it."""
    _slow_storage(world, processor_id, steps, min(lasts_s, 7.0), ends)
    _hurry(world, min(lasts_s, 7.0), ends)


def _hurry(world: World, lasts_s: float, ends: Ends) -> None:
    world.hurry_s = 0.4
    ends(lasts_s, lambda: setattr(world, "hurry_s", None))


FAULTS: Mapping[str, Happens] = {
    "kill-node": _kill_node,
    "stop-node": _stop_node,
    "cut-off-node": _cut_off_node,
    "cut-off-at-commit": _cut_off_at_commit,
    "drain-node": _drain_node,
    "swap-ports": _swap_ports,
    "kill-gateway": _kill_gateway,
    "kill-in-recovery": _kill_in_recovery,
    "stop-gateway": _stop_gateway,
    "end-gateway": _end_gateway,
    "kill-in-end": _kill_in_end,
    "before-commit": _at_commit("before-commit"),
    "after-commit": _at_commit("after-commit"),
    "lost-commit-reply": _at_commit("lost-commit-reply"),
    "failed-commit": _at_commit("failed-commit"),
    "late-commit": _at_commit("late-commit"),
    "slow-storage": _slow_storage,
    "cut-storage": _cut_storage,
    "full-disk": _full_disk,
    "cut-registry": _cut_registry,
    "engine-away": _engine_away,
    "bad-starts": _bad_starts,
    "lost-reply": _lost_reply,
    "lost-answer": _lost_answer,
    "clock-jump": _clock_jump,
    "hang-up": _hang_up,
}

# The rare ones more often: what they need to do harm needs a coincidence besides.
DRAWN = (*FAULTS, *3 * ("swap-ports", "hang-up", "cut-off-at-commit"))

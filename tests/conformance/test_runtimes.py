"""What every runtime does, whatever it runs nodes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from container_manager.errors import ContainerError, NameTaken, RuntimeUnavailable, StartFailed, StartTimeout
from container_manager.runtime import Runtime
from container_manager.spec import Liveness, NodeStatus
from tests.conformance.runtimes import DockerGround, Ground, MemoryGround, ProcessGround
from tests.processes import descriptors, until

TIMEOUT_S = 20.0
SHORT_S = 0.3
Opened = Callable[..., Awaitable[Runtime]]


@pytest.fixture(params=["memory", "process", pytest.param("docker", marks=pytest.mark.docker)])
async def ground(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    """Each kind of ground; fails if a node, a trace or a descriptor is left on it."""
    before = descriptors()
    kinds: dict[str, Callable[[], Ground]] = {
        "memory": MemoryGround,
        "process": lambda: ProcessGround(tmp_path / "home"),
        "docker": lambda: DockerGround(tmp_path),
    }
    ground = kinds[request.param]()
    yield ground
    await ground.assert_clean()
    assert descriptors() - before == set()


@pytest.fixture
async def opened(ground: Ground) -> AsyncIterator[Opened]:
    """Opens runtimes on the ground; removes what they have left, and closes them."""
    runtimes: list[Runtime] = []

    async def opened(deployment: str = "ours") -> Runtime:
        runtime = ground.runtime(deployment)
        await runtime.open()
        runtimes.append(runtime)
        return runtime

    yield opened
    for runtime in runtimes:
        for status in await runtime.list():
            await runtime.remove(status.node_id)
    for runtime in runtimes:
        await runtime.close()


@pytest.fixture
async def runtime(opened: Opened) -> Runtime:
    """One open runtime."""
    return await opened()


async def listed(runtime: Runtime) -> dict[str, NodeStatus]:
    """Return what the runtime lists, by node id."""
    return {status.node_id: status for status in await runtime.list()}


async def test_a_started_node_is_alive_and_says_what_it_is(ground: Ground, runtime: Runtime) -> None:
    """A start returns a living node with its addresses and the facts of its spec."""
    spec = ground.spec(role="static")
    status = await runtime.start(spec, timeout_s=TIMEOUT_S)
    assert status.liveness is Liveness.ALIVE
    assert status.internal is not None
    assert status.external is not None
    told = (status.node_id, status.deployment, status.role, status.spec_hash, status.created_at_s)
    assert told == (spec.node_id, spec.deployment, "static", spec.spec_hash, spec.created_at_s)


async def test_status_and_list_agree(ground: Ground, runtime: Runtime) -> None:
    """Status and list tell the same of a node as its start did."""
    started = await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)
    for told in (await runtime.status(started.node_id), (await listed(runtime))[started.node_id]):
        assert (told.liveness, told.internal, told.spec_hash) == (started.liveness, started.internal, started.spec_hash)


async def test_what_never_was_is_dead(runtime: Runtime) -> None:
    """A node that never was is dead, not listed, and stopping or removing it does nothing."""
    assert (await runtime.status("never-was")).liveness is Liveness.DEAD
    await runtime.stop("never-was", grace_s=SHORT_S)
    await runtime.remove("never-was")
    assert await listed(runtime) == {}


async def test_an_id_is_taken_once(ground: Ground, runtime: Runtime) -> None:
    """A second start of a living node's id fails, and does the first no harm."""
    spec = ground.spec()
    first = await runtime.start(spec, timeout_s=TIMEOUT_S)
    with pytest.raises(NameTaken):
        await runtime.start(spec, timeout_s=TIMEOUT_S)
    told = await runtime.status(spec.node_id)
    assert (told.liveness, told.internal) == (Liveness.ALIVE, first.internal)


async def test_of_two_starts_at_once_one_wins(ground: Ground, runtime: Runtime) -> None:
    """Of two concurrent starts of one id exactly one succeeds, and its node lives."""
    spec = ground.spec()
    starts = [runtime.start(spec, timeout_s=TIMEOUT_S) for _ in range(2)]
    results = await asyncio.gather(*starts, return_exceptions=True)
    winners = [result for result in results if isinstance(result, NodeStatus)]
    assert len(winners) == 1
    assert [type(result) for result in results if not isinstance(result, NodeStatus)] == [NameTaken]
    assert (await runtime.status(spec.node_id)).internal == winners[0].internal


async def test_a_dead_nodes_id_is_taken_until_it_is_removed(ground: Ground, runtime: Runtime) -> None:
    """A dead node keeps its id; once removed, the id can be started again."""
    spec = ground.spec()
    await runtime.start(spec, timeout_s=TIMEOUT_S)
    await runtime.stop(spec.node_id, grace_s=TIMEOUT_S)
    with pytest.raises(NameTaken):
        await runtime.start(spec, timeout_s=TIMEOUT_S)
    await runtime.remove(spec.node_id)
    assert (await runtime.start(spec, timeout_s=TIMEOUT_S)).liveness is Liveness.ALIVE


async def test_a_stopped_node_is_dead_and_still_listed(ground: Ground, runtime: Runtime) -> None:
    """Stop returns when the node is dead, leaves its trace, and may be repeated."""
    node_id = (await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)).node_id
    for _ in range(2):
        await runtime.stop(node_id, grace_s=TIMEOUT_S)
        assert (await runtime.status(node_id)).liveness is Liveness.DEAD
        assert (await listed(runtime))[node_id].liveness is Liveness.DEAD


async def test_a_removed_node_leaves_no_trace(ground: Ground, runtime: Runtime) -> None:
    """Remove stops a living node, forgets it, and may be repeated."""
    node_id = (await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)).node_id
    for _ in range(2):
        await runtime.remove(node_id)
        assert (await runtime.status(node_id)).liveness is Liveness.DEAD
        assert await listed(runtime) == {}


async def test_stops_and_removes_at_once_agree(ground: Ground, runtime: Runtime) -> None:
    """Any number of concurrent stops and removes of one node all succeed."""
    node_id = (await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)).node_id
    stops = [runtime.stop(node_id, grace_s=TIMEOUT_S) for _ in range(3)]
    await asyncio.gather(*stops, *(runtime.remove(node_id) for _ in range(3)))
    assert await listed(runtime) == {}


async def test_a_node_that_dies_by_itself_is_noticed(ground: Ground, runtime: Runtime) -> None:
    """A node that dies unasked is heard of, and is dead and listed."""
    exits = runtime.exits()
    node_id = (await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)).node_id
    await ground.kill(runtime, node_id)
    assert await anext(exits) == node_id
    assert (await listed(runtime))[node_id].liveness is Liveness.DEAD


async def test_every_listener_hears_of_every_exit(ground: Ground, runtime: Runtime, opened: Opened) -> None:
    """Two listeners, one on another runtime of the deployment, both hear of a stopped node."""
    listeners = [runtime.exits(), (await opened()).exits()]
    node_id = (await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)).node_id
    await runtime.stop(node_id, grace_s=TIMEOUT_S)
    assert [await anext(listener) for listener in listeners] == [node_id, node_id]


async def test_exits_end_when_the_runtime_is_closed(ground: Ground) -> None:
    """An iterator of exits ends with its runtime."""
    runtime = ground.runtime()
    await runtime.open()
    exits = runtime.exits()
    await runtime.close()
    with pytest.raises(StopAsyncIteration):
        await anext(exits)


async def test_another_deployments_nodes_are_not_touched(ground: Ground, runtime: Runtime, opened: Opened) -> None:
    """Another deployment's node is not listed, not stopped, not removed, and its exit is not told."""
    other = await opened("theirs")
    theirs = await other.start(ground.spec("theirs"), timeout_s=TIMEOUT_S)
    ours = await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)
    assert set(await listed(runtime)) == {ours.node_id}
    for refused in (runtime.stop(theirs.node_id, grace_s=SHORT_S), runtime.remove(theirs.node_id)):
        with pytest.raises(ContainerError):
            await refused
    assert (await other.status(theirs.node_id)).liveness is Liveness.ALIVE
    exits = runtime.exits()
    await other.stop(theirs.node_id, grace_s=TIMEOUT_S)
    await runtime.stop(ours.node_id, grace_s=TIMEOUT_S)
    assert await anext(exits) == ours.node_id


async def test_a_node_that_ends_at_once_fails_its_start(ground: Ground, runtime: Runtime) -> None:
    """A node that ends before it is healthy fails its start and leaves nothing."""
    with ground.ending() as spec, pytest.raises(StartFailed):
        await runtime.start(spec, timeout_s=TIMEOUT_S)
    assert await listed(runtime) == {}


async def test_a_node_that_never_answers_fails_its_start(ground: Ground, runtime: Runtime) -> None:
    """A node that is not healthy in time fails its start and leaves nothing."""
    with ground.silent() as spec, pytest.raises(StartTimeout):
        await runtime.start(spec, timeout_s=ground.short_s)
    assert await listed(runtime) == {}


async def test_a_cancelled_start_leaves_nothing(ground: Ground, runtime: Runtime) -> None:
    """A start that is cancelled while it waits for the node is over at once and leaves nothing."""
    with ground.silent() as spec:
        start = asyncio.create_task(runtime.start(spec, timeout_s=TIMEOUT_S))
        await asyncio.wait({start}, timeout=ground.short_s)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    assert await listed(runtime) == {}


async def test_a_start_can_be_cancelled_at_any_await(ground: Ground, runtime: Runtime) -> None:
    """However far a start has come when it is cancelled, it leaves nothing, or it has succeeded."""
    steps = 0
    finished = False
    while not finished:
        start = asyncio.create_task(runtime.start(ground.spec(), timeout_s=TIMEOUT_S))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = not start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
        assert len(await listed(runtime)) == (1 if finished else 0)
        steps = max(steps + 1, int(steps * ground.stride))


async def test_starts_at_once_all_succeed(ground: Ground, runtime: Runtime) -> None:
    """Concurrent starts all succeed, each at an address of its own."""
    starts = [runtime.start(ground.spec(), timeout_s=TIMEOUT_S) for _ in range(8)]
    statuses = await asyncio.gather(*starts)
    assert len({status.internal for status in statuses}) == 8
    assert set(await listed(runtime)) == {status.node_id for status in statuses}


@pytest.mark.parametrize("leave_nodes", [True, False])
async def test_nodes_outlive_their_runtime(ground: Ground, opened: Opened, leave_nodes: bool) -> None:
    """A closed runtime's nodes live on, and the next one of the deployment finds them as they were."""
    former = ground.runtime()
    await former.open()
    started = await former.start(ground.spec(), timeout_s=TIMEOUT_S)
    await former.close(leave_nodes=leave_nodes)
    found = (await listed(await opened()))[started.node_id]
    assert (found.liveness, found.internal, found.spec_hash) == (Liveness.ALIVE, started.internal, started.spec_hash)


async def test_the_next_runtime_hears_of_exits_too(ground: Ground, opened: Opened) -> None:
    """The exit of a node that a former runtime started is told to the next one."""
    former = ground.runtime()
    await former.open()
    node_id = (await former.start(ground.spec(), timeout_s=TIMEOUT_S)).node_id
    await former.close(leave_nodes=True)
    runtime = await opened()
    exits = runtime.exits()
    await ground.kill(runtime, node_id)
    assert await anext(exits) == node_id


async def test_in_doubt_nothing_is_done(ground: Ground, runtime: Runtime) -> None:
    """A node of which the runtime cannot tell is unknown, is neither stopped nor removed, and is alive after it."""
    node_id = (await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)).node_id
    with ground.doubt(node_id):
        assert (await runtime.status(node_id)).liveness is Liveness.UNKNOWN
        for refused in (runtime.stop(node_id, grace_s=SHORT_S), runtime.remove(node_id)):
            with pytest.raises(RuntimeUnavailable):
                await refused
    assert (await runtime.status(node_id)).liveness is Liveness.ALIVE


async def test_in_doubt_no_list_is_given(ground: Ground, runtime: Runtime) -> None:
    """A runtime that cannot tell what there is raises, and does not give an empty list."""
    node_id = (await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)).node_id
    with ground.blindness(), pytest.raises(RuntimeUnavailable):
        await runtime.list()
    assert set(await listed(runtime)) == {node_id}


async def test_an_engine_is_known_by_its_name(ground: Ground, runtime: Runtime, opened: Opened) -> None:
    """Every runtime on one ground names the same engine, after another opening too."""
    names = {each.engine for each in (runtime, await opened("theirs"), await opened())}
    assert len(names) == 1
    assert names.pop().startswith(f"{runtime.name}:")


async def test_renaming_changes_no_id(ground: Ground, runtime: Runtime) -> None:
    """A renamed node is found by its id as before."""
    started = await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)
    await runtime.rename(started.node_id, "kato-anna-s1-1700000000")
    assert (await runtime.status(started.node_id)).internal == started.internal


async def test_opening_and_closing_may_be_repeated(ground: Ground) -> None:
    """A runtime can be opened twice, closed twice, and opened again."""
    runtime = ground.runtime()
    for _ in range(2):
        await runtime.open()
        await runtime.open()
        started = await runtime.start(ground.spec(), timeout_s=TIMEOUT_S)
        await runtime.remove(started.node_id)
        await runtime.close()
        await runtime.close()


async def test_a_start_in_flight_is_undone_before_the_runtime_closes(ground: Ground, runtime: Runtime) -> None:
    """A start that is cancelled twice is over at once, and undone by the time the runtime is closed."""
    with ground.silent() as spec:
        start = asyncio.create_task(runtime.start(spec, timeout_s=TIMEOUT_S))
        await asyncio.wait({start}, timeout=ground.short_s)
        start.cancel()
        await asyncio.sleep(0)
        start.cancel()
        await until(start.done)
    await runtime.close()
    assert await listed(runtime) == {}

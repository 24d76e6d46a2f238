"""Nodes as containers of a Docker engine, each hardened, on one network of the deployment.

The engine is the only record: containers are found by their labels, in one listing, which also tells where they listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from container_manager.errors import (
    ContainerError,
    NameTaken,
    ResourcesExhausted,
    RuntimeUnavailable,
    StartFailed,
    StartTimeout,
)
from container_manager.readiness import NeverHealthy, NodeEnded, wait_until_healthy
from container_manager.runtime import Capabilities
from container_manager.runtimes.dockercontainers import Containers
from container_manager.runtimes.dockerengine import Engine
from container_manager.runtimes.dockererrors import NetworkGone, Unanswered
from container_manager.runtimes.dockerevents import Exits
from container_manager.runtimes.dockernetwork import DeploymentNetwork
from container_manager.runtimes.dockerspec import (
    DEPLOYMENT,
    NODE,
    START,
    Found,
    container_config,
    likeliest,
    status_of,
)
from container_manager.spec import Liveness, NodeSpec, NodeStatus

logger = logging.getLogger(__name__)

_ATTEMPTS_MAX = 3
_REMOVE_GRACE_S = 5.0
_KILL_S = 10.0
_LOOK_MIN_S, _LOOK_MAX_S = 0.1, 1.0
_REMOVALS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
_CHASES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(slots=True, kw_only=True)
class _Start:
    """One call of start: what it has asked the engine for, and what it got. Each container asked for has its token."""

    token: str = ""
    is_asked: bool = False
    is_refused: bool = False
    container_id: str | None = None

    def made(self, container_id: str) -> None:
        self.container_id = container_id


class DockerRuntime:
    """The runtime of containers; one per event loop.

    Args:
        deployment: whose nodes these are.
        network: the name of an existing network to use; by default `kato-<deployment>`, made when it is needed.
        engine_url: where the engine listens; by default what DOCKER_HOST says, else the usual socket.
    """

    name = "docker"
    capabilities = Capabilities(shares_files=False, limits_memory=True, limits_cpus=True, renames=True)

    def __init__(self, deployment: str, *, network: str | None = None, engine_url: str | None = None) -> None:
        self._deployment = deployment
        self._docker = Engine(engine_url)
        self._containers = Containers(self._docker)
        self._network = DeploymentNetwork(self._docker, deployment, network)
        self._exits = Exits(self._docker.watch, deployment)
        self._engine = ""
        self._network_id = ""
        self._inside: str | None = None
        self._starts: set[asyncio.Task[NodeStatus]] = set()
        self._chases: set[asyncio.Task[None]] = set()

    @property
    def engine(self) -> str:
        """The engine's own id: it survives restarts."""
        return self._engine

    async def check_image(self, image: str) -> None:
        """Find out, before opening, whether an engine has this image. Raises: ImageMissing, RuntimeUnavailable."""
        try:
            await self._containers.check_image(image)
        finally:
            if not self._exits.is_open:
                await self._docker.close()

    async def open(self) -> None:
        """Find the engine and the deployment's network, and listen for exits."""
        try:
            facts = await self._docker.facts()
            self._engine = f"docker:{facts.id}"
            self._network_id = await self._network.ready()
            self._inside = await self._own_network()
        except BaseException:
            await self._docker.close()
            raise
        if not self._exits.is_open:
            self._exits.open(facts.now_s)

    async def _own_network(self) -> str | None:
        """Return the network's id if we are on it ourselves; where we cannot use it, it is not left behind."""
        try:
            return self._network_id if await self._network.is_joined(self._network_id) else None
        except BaseException:
            with contextlib.suppress(RuntimeUnavailable):
                await self._network.remove()
            raise

    async def close(self, *, leave_nodes: bool = False) -> None:
        """Wait for starts, cancelled ones to be undone; remove the network if no node is on it. Idempotent."""
        if self._starts:
            await asyncio.wait(self._starts)
        for chase in self._chases:
            chase.cancel()
        if self._chases:
            await asyncio.wait(self._chases)
        is_open = self._exits.is_open
        await self._exits.close()
        try:
            if is_open and not leave_nodes:
                await self._network.remove()
        except RuntimeUnavailable as error:
            logger.warning("network_left_behind", extra={"network": self._network.name, "reason": str(error)})
        finally:
            await self._docker.close()

    async def start(self, spec: NodeSpec, *, timeout_s: float) -> NodeStatus:
        """Create and start a container and wait until the node is healthy; see the protocol."""
        if spec.deployment != self._deployment:
            raise ValueError(f"a runtime of {self._deployment} starts no node of {spec.deployment}")
        if spec.image is None:
            raise ValueError(f"{spec.name} has no image")
        task = asyncio.create_task(self._started(spec, timeout_s))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelling():  # once: what undoes the start must not be cut off
                task.cancel()
            await asyncio.wait({task})
            raise

    async def status(self, node_id: str) -> NodeStatus:
        """Ask the engine; only its answer that there is no such container, or none that runs, is DEAD."""
        try:
            found = likeliest(await self._containers.find({NODE: node_id, DEPLOYMENT: self._deployment}))
        except RuntimeUnavailable:
            return NodeStatus(node_id=node_id, liveness=Liveness.UNKNOWN)
        return NodeStatus(node_id=node_id, liveness=Liveness.DEAD) if found is None else self._status(found)

    async def list(self) -> Sequence[NodeStatus]:
        """Ask the engine, once."""
        by_node: dict[str, list[Found]] = {}
        for found in await self._containers.find({DEPLOYMENT: self._deployment}):
            if NODE in found.labels:  # something else of the deployment may carry its label
                by_node.setdefault(found.labels[NODE], []).append(found)
        likely = (likeliest(several) for several in by_node.values())
        return [self._status(found) for found in likely if found is not None]

    async def stop(self, node_id: str, *, grace_s: float) -> None:
        """Signal the container, and wait."""
        for found in await self._own(node_id):
            await self._end(found, grace_s)

    async def remove(self, node_id: str) -> None:
        """Stop the node and delete its container with its anonymous volumes."""
        for found in await self._own(node_id):
            await self._end(found, _REMOVE_GRACE_S)
            await self._delete(found)

    async def rename(self, node_id: str, name: str) -> None:
        """Rename the container; it keeps the name that it has if the new one cannot be had."""
        for found in await self._own(node_id):
            if not await self._containers.rename(found.id, name):
                logger.info("node_keeps_its_name", extra={"node_id": node_id, "wanted": name})

    def exits(self) -> AsyncIterator[str]:
        """Yield ids as the engine tells of them, until this runtime is closed; from this call on."""
        return self._exits.listen()

    # Starting.

    async def _started(self, spec: NodeSpec, timeout_s: float) -> NodeStatus:
        start = _Start()
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_s
        try:
            await self._run_on_network(spec, start, give_up_at)
            return await self._ready(spec, start, give_up_at)
        except BaseException:
            await self._undo(spec, start)
            raise

    async def _run_on_network(self, spec: NodeSpec, start: _Start, give_up_at: float) -> None:
        """Create and start the container; again if somebody removed the network while no node was on it."""
        for _ in range(_ATTEMPTS_MAX - 1):
            try:
                return await self._run(spec, start, give_up_at)
            except NetworkGone:
                await self._undo(spec, start)
                self._network_id = await self._network.ready()
        return await self._run(spec, start, give_up_at)

    async def _run(self, spec: NodeSpec, start: _Start, give_up_at: float) -> None:
        """Create and start the container. Raises: ContainerError."""
        clock = asyncio.get_running_loop().time
        start.token = secrets.token_hex(8)
        config = container_config(spec, network_id=self._network_id, start=start.token)
        start.is_asked, start.is_refused = True, False
        try:
            await self._containers.create(config, spec.name, timeout_s=give_up_at - clock(), made=start.made)
        except Unanswered:
            raise
        except ContainerError:
            start.is_refused = True
            raise
        assert start.container_id is not None
        await self._check_only_one(spec)
        await self._containers.start(start.container_id, spec.name, timeout_s=give_up_at - clock())

    async def _check_only_one(self, spec: NodeSpec) -> None:
        """Raises: NameTaken, if another container is this node.

        A renamed node's first name is free again, so the name alone does not keep a second one out. Whoever had the
        name before us has been renamed since, so it is ours that yields.
        """
        if len(await self._containers.find({NODE: spec.node_id})) > 1:
            raise NameTaken(f"{spec.name} is there already, under another name; adopt or remove it")

    async def _ready(self, spec: NodeSpec, start: _Start, give_up_at: float) -> NodeStatus:
        """Wait until it is healthy. Raises: StartFailed, StartTimeout, ResourcesExhausted, RuntimeUnavailable."""
        with self._exits.of(spec.node_id) as bell:
            found = await self._found(start)
            if found is None:
                raise StartFailed(f"{spec.name} was removed while it started")
            address = self._status(found).internal
            if found.liveness is Liveness.DEAD or address is None:
                raise await self._failure(spec, found)
            ended = asyncio.get_running_loop().create_future()
            watch = asyncio.create_task(self._watch(found, bell, ended))
            try:
                timeout_s = give_up_at - asyncio.get_running_loop().time()
                await wait_until_healthy(address, timeout_s=timeout_s, ended=ended)
            except NodeEnded:
                raise await self._failure(spec, found) from None
            except NeverHealthy as error:
                ending = await self._containers.ending(found.id)
                raise StartTimeout(_with_tail(f"{spec.name}: {error}", ending.tail)) from None
            finally:
                watch.cancel()
                await asyncio.wait({watch})
        return self._status(found)

    async def _found(self, start: _Start) -> Found | None:
        return likeliest(await self._containers.find({START: start.token}))

    async def _watch(self, found: Found, bell: asyncio.Event, ended: asyncio.Future[None]) -> None:
        while not await self._is_dead_within(found, bell, _KILL_S):
            continue
        if not ended.done():
            ended.set_result(None)

    async def _failure(self, spec: NodeSpec, found: Found) -> ContainerError:
        """Return why a node did not come to live."""
        ending = await self._containers.ending(found.id)
        if ending.is_out_of_memory:
            limit = f"its limit of {spec.memory_max_bytes} bytes is too small"
            return ResourcesExhausted(_with_tail(f"{spec.name} ran out of memory: {limit}", ending.tail))
        words = f"{spec.name} ended before it answered, with status {ending.exit_code}"
        return StartFailed(_with_tail(words, ending.tail))

    # Undoing.

    async def _undo(self, spec: NodeSpec, start: _Start) -> None:
        """Leave nothing of a start that failed; if the engine does not tell what became of it, keep after it."""
        if not start.is_asked:
            return
        is_known = start.is_refused or start.container_id is not None
        try:
            if await self._cleared(start.token) or is_known:
                start.is_asked, start.container_id = False, None
                return
        except RuntimeUnavailable as error:
            logger.info("start_undone_later", extra={"node_id": spec.node_id, "reason": str(error)})
        chase = asyncio.create_task(self._chase(spec, start.token))
        self._chases.add(chase)
        chase.add_done_callback(self._chases.discard)

    async def _cleared(self, token: str) -> bool:
        """Delete what was made for a token; whether there was anything. Raises: RuntimeUnavailable."""
        made = await self._containers.find({START: token})
        for found in made:
            await self._delete(found)
        return bool(made)

    async def _chase(self, spec: NodeSpec, token: str) -> None:
        """Look for what an unanswered call may still make, for two minutes."""
        reason = "the runtime was closed"
        try:
            for pause_s in _CHASES_S:
                await asyncio.sleep(pause_s)
                try:
                    if await self._cleared(token):
                        return
                    reason = ""
                except RuntimeUnavailable as error:
                    reason = str(error)
        finally:
            if reason:
                logger.warning("start_left_behind", extra={"node_id": spec.node_id, "reason": reason})

    # Ending.

    async def _own(self, node_id: str) -> Sequence[Found]:
        """Return the node's containers. Raises: RuntimeUnavailable; ContainerError for another deployment's."""
        found = await self._containers.find({NODE: node_id})
        own = [each for each in found if each.labels.get(DEPLOYMENT) == self._deployment]
        if found and not own:
            others = found[0].labels.get(DEPLOYMENT)
            raise ContainerError(f"kato-{node_id} belongs to another deployment, {others}")
        return own

    async def _end(self, found: Found, grace_s: float) -> None:
        """SIGTERM, then SIGKILL. Raises: RuntimeUnavailable."""
        name = f"kato-{found.labels[NODE]}"
        if found.liveness is Liveness.DEAD:
            return
        if found.liveness is Liveness.UNKNOWN:
            raise RuntimeUnavailable(f"{name} is in a state in which it may run or not; look at it")
        with self._exits.of(found.labels[NODE]) as bell:
            if grace_s > 0:
                await self._containers.signal(found.id, "SIGTERM")
                if await self._is_dead_within(found, bell, grace_s):
                    return
            await self._containers.signal(found.id, "SIGKILL")
            if not await self._is_dead_within(found, bell, _KILL_S):
                raise RuntimeUnavailable(f"{name} does not die")

    async def _is_dead_within(self, found: Found, bell: asyncio.Event, within_s: float) -> bool:
        """Look whether it is dead, at each hint and now and then. An engine that does not answer has not said so."""
        clock = asyncio.get_running_loop().time
        give_up_at, pause_s = clock() + within_s, _LOOK_MIN_S
        while True:
            left_s = give_up_at - clock()
            try:
                async with asyncio.timeout(max(0.0, min(pause_s, left_s))):
                    await bell.wait()
            except TimeoutError:
                pause_s = min(2 * pause_s, _LOOK_MAX_S)
            bell.clear()
            if await self._is_dead(found):
                return True
            if left_s <= 0:
                return False

    async def _is_dead(self, found: Found) -> bool:
        try:
            now = await self._again(found)
        except RuntimeUnavailable:
            return False
        return now is None or now.liveness is Liveness.DEAD

    async def _delete(self, found: Found) -> None:
        """Delete a container, or wait for whoever does; return once it is gone. Raises: RuntimeUnavailable."""
        for pause_s in _REMOVALS_S:
            await self._containers.delete(found.id)
            if await self._again(found) is None:
                return
            await asyncio.sleep(pause_s)
        raise RuntimeUnavailable(f"the container of kato-{found.labels[NODE]} is not gone yet")

    async def _again(self, found: Found) -> Found | None:
        """Look at the same container again."""
        listed = await self._containers.find({NODE: found.labels[NODE]})
        return next((each for each in listed if each.id == found.id), None)

    def _status(self, found: Found) -> NodeStatus:
        return status_of(found, inside=self._inside)


def _with_tail(message: str, tail: str) -> str:
    return f"{message}; its log ends:\n{tail}" if tail else f"{message}, and logged nothing"

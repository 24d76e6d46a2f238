"""Nodes as processes of this host: forked by the home's fork server, found again by their lock files alone.

The fork server is needed to start a node and to hear of exits at once; status, list, stop and remove need only
`KATO_HOME/run`. So nodes and what is known of them survive both the gateway and the fork server.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import signal
import socket
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from container_manager.errors import ContainerError, ResourcesExhausted, RuntimeUnavailable, StartFailed, StartTimeout
from container_manager.readiness import NeverHealthy, NodeEnded, wait_until_healthy
from container_manager.runtime import Capabilities
from container_manager.runtimes import lockfiles, nodelogs
from container_manager.runtimes.forkclient import ForkClient, LinkLost
from container_manager.runtimes.forking import HOST
from container_manager.runtimes.forklaunch import Program
from container_manager.runtimes.forkloop import own_dir
from container_manager.runtimes.lockfiles import LockRecord, Trace
from container_manager.runtimes.processend import ProcessEnd
from container_manager.spec import Address, Liveness, NodeSpec, NodeStatus

logger = logging.getLogger(__name__)

DEFAULT_ENTRY = "kato_node.__main__:run"
MONGO_ENTRY = "kato_node.with_mongo:run"
LINGER_S = 5.0
LOG_BYTES_MAX = 8 * 1024 * 1024

_ATTEMPTS_MAX = 3
_REMOVE_GRACE_S = 5.0
_KILL_S = 10.0
_UNHEARD_EXITS_MAX = 1024
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessRuntime:
    """The runtime of processes; one per event loop.

    Args:
        home: KATO_HOME; created if missing.
        deployment: whose nodes these are.
        entry: "module:function" that runs a node: (environment, listening socket) -> exit status.
        path: directories to import the entry from, before the usual ones.
        linger_s: how long a fork server stays with no node and no client.
        log_bytes_max: the size at which a node's log is rotated.

    All runtimes of a home should be made alike: whose fork server it is decides, and another entry makes it retire.
    """

    name = "process"
    capabilities = Capabilities(shares_files=True, limits_memory=False, limits_cpus=False, renames=False)

    def __init__(
        self,
        home: Path,
        deployment: str,
        *,
        entry: str = DEFAULT_ENTRY,
        path: Sequence[Path] = (),
        linger_s: float = LINGER_S,
        log_bytes_max: int = LOG_BYTES_MAX,
    ) -> None:
        self._home = home.expanduser().absolute()
        self._run = lockfiles.run_dir(self._home)
        self._deployment = deployment
        program = Program(
            home=self._home,
            entry=entry,
            path=tuple(each.absolute() for each in path),
            linger_s=linger_s,
            log_bytes_max=log_bytes_max,
        )
        self._client = ForkClient(program, self._heard_of_exit)
        self._starts: set[asyncio.Task[NodeStatus]] = set()
        self._exit_statuses: dict[str, int] = {}
        self._listeners: weakref.WeakSet[asyncio.Queue[str | None]] = weakref.WeakSet()

    @property
    def engine(self) -> str:
        """This machine and this home: what runs in another is another engine's."""
        place = f"{_machine()} {self._home.resolve()}"
        return f"process:{hashlib.sha256(place.encode()).hexdigest()[:16]}"

    async def open(self) -> None:
        """Make the home's directories and connect to its fork server, starting it if need be."""
        try:
            for directory in (self._home, self._run, nodelogs.logs_dir(self._home), own_dir(self._home)):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise RuntimeUnavailable(f"cannot use {self._home}: {error}; set KATO_HOME to a writable place") from error
        await self._client.open()

    async def close(self, *, leave_nodes: bool = False) -> None:
        """Wait for starts, cancelled ones to be undone, and disconnect. Idempotent."""
        if self._starts:
            await asyncio.wait(self._starts)
        await self._client.close(release=not leave_nodes)
        for listener in self._listeners:
            listener.put_nowait(None)

    async def start(self, spec: NodeSpec, *, timeout_s: float) -> NodeStatus:
        """Have the node forked and wait until it is healthy; see the protocol."""
        if spec.deployment != self._deployment:
            raise ValueError(f"a runtime of {self._deployment} starts no node of {spec.deployment}")
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
        """Read the node's lock file."""
        return self._told(self._look(node_id))

    async def list(self) -> Sequence[NodeStatus]:
        """Read every lock file; one that cannot be understood may be ours, so it is listed, as UNKNOWN."""
        try:
            traces = await asyncio.to_thread(lockfiles.look_at_all, self._run)
        except OSError as error:
            raise RuntimeUnavailable(f"cannot read {self._run}: {error}") from error
        return [self._told(trace) for trace in traces if self._is_listed(trace)]

    async def stop(self, node_id: str, *, grace_s: float) -> None:
        """Signal the process that holds the lock, and no other."""
        trace = self._look(node_id)
        if trace.life == "dead":
            return
        if trace.record is None:
            raise RuntimeUnavailable(f"{self._run / node_id}.json cannot be understood; look at it")
        self._check_own(trace.record)
        await self._end(trace.record, grace_s)

    async def remove(self, node_id: str) -> None:
        """Stop the node and delete its lock file; its log stays a while, for whoever wants to know why."""
        await self.stop(node_id, grace_s=_REMOVE_GRACE_S)
        trace = self._look(node_id)
        if trace.record is not None:
            self._check_own(trace.record)
        if lockfiles.is_node_id(node_id):
            self._forget(node_id)

    async def rename(self, node_id: str, name: str) -> None:
        """A process has no name for people."""

    def exits(self) -> AsyncIterator[str]:
        """Yield ids as the fork server tells of them, until this runtime is closed; from this call on."""
        listener: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.add(listener)
        return _until_none(listener)

    # Starting.

    async def _started(self, spec: NodeSpec, timeout_s: float) -> NodeStatus:
        request = secrets.token_hex(8)
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                record = await self._forked(spec, request)
            await self._wait_until_ready(record, (deadline.when() or 0.0) - asyncio.get_running_loop().time())
        except BaseException as error:
            await self._discard(spec.node_id, request)
            if isinstance(error, TimeoutError):
                raise RuntimeUnavailable(f"the fork server started no {spec.name} within {timeout_s:g} s") from None
            if isinstance(error, OSError):
                raise ResourcesExhausted(f"cannot start {spec.name}: {error}") from error
            raise
        return _status(Trace(node_id=spec.node_id, life="alive", record=record))

    async def _forked(self, spec: NodeSpec, request: str) -> LockRecord:
        """Have the node forked, and return what its lock file says; again if the fork server goes away meanwhile."""
        fields = {
            "node_id": spec.node_id,
            "deployment": spec.deployment,
            "role": spec.role,
            "spec_hash": spec.spec_hash,
            "created_at_s": spec.created_at_s,
            "request": request,
        }
        for _ in range(_ATTEMPTS_MAX):
            try:
                await self._client.start(fields, spec.env)
            except LinkLost:
                await self._discard(spec.node_id, request)
                continue
            record = self._look(spec.node_id).record
            if record is not None and record.request == request:
                return record
            raise StartFailed(f"{spec.name} was removed while it started")
        raise RuntimeUnavailable(f"the fork server went away {_ATTEMPTS_MAX} times while it started {spec.name}")

    async def _wait_until_ready(self, record: LockRecord, timeout_s: float) -> None:
        log = nodelogs.log_path(nodelogs.logs_dir(self._home), record.node_id)
        address = Address(host=HOST, port=record.port)
        try:
            with ProcessEnd(record.pid) as process:
                if self._look(record.node_id).life == "dead":
                    raise NodeEnded("it ended")  # noqa: TRY301 - said in one place, below
                await wait_until_healthy(address, timeout_s=timeout_s, ended=process.ended)
        except NodeEnded:
            raise StartFailed(_with_tail(f"kato-{record.node_id} ended before it answered", log)) from None
        except NeverHealthy as error:
            raise StartTimeout(_with_tail(f"kato-{record.node_id}: {error}", log)) from None

    async def _discard(self, node_id: str, request: str) -> None:
        """Leave nothing of a start that failed; another's node of this id is left alone."""
        record = self._look(node_id).record
        if record is None or record.request != request:
            return
        try:
            await self._end(record, 0.0)
            self._forget(node_id)
        except RuntimeUnavailable as error:
            logger.warning("start_left_behind", extra={"node_id": node_id, "reason": repr(error)})

    # Lock files and signals.

    def _look(self, node_id: str) -> Trace:
        if not lockfiles.is_node_id(node_id):
            return Trace(node_id=node_id, life="dead")
        return lockfiles.look(self._run, node_id)

    def _forget(self, node_id: str) -> None:
        try:
            gone = lockfiles.forget(self._run, node_id)
        except OSError as error:
            raise RuntimeUnavailable(f"cannot delete {self._run / node_id}.json: {error}") from error
        if not gone:
            raise RuntimeUnavailable(f"{self._run / node_id}.json is in use again")

    def _told(self, trace: Trace) -> NodeStatus:
        status = _status(trace)
        if status.liveness is not Liveness.DEAD:
            return status
        return replace(status, exit_status=self._exit_statuses.get(trace.node_id))

    def _is_listed(self, trace: Trace) -> bool:
        return trace.life == "unknown" if trace.record is None else trace.record.deployment == self._deployment

    def _check_own(self, record: LockRecord) -> None:
        if record.deployment != self._deployment:
            raise ContainerError(f"kato-{record.node_id} belongs to another deployment, {record.deployment}")

    async def _end(self, record: LockRecord, grace_s: float) -> None:
        """SIGTERM, then SIGKILL, to the very process that holds the lock. Raises: RuntimeUnavailable."""
        try:
            with ProcessEnd(record.pid) as process:
                if self._look(record.node_id).life == "dead":
                    return
                if lockfiles.start_ticks(record.pid) != record.start_ticks:
                    raise RuntimeUnavailable(
                        f"kato-{record.node_id}: pid {record.pid} is not the one that holds its lock"
                    )
                if grace_s > 0:
                    process.send(signal.SIGTERM)
                    if await process.within(grace_s):
                        return
                process.send(signal.SIGKILL)
                if not await process.within(_KILL_S):
                    raise RuntimeUnavailable(f"kato-{record.node_id} (pid {record.pid}) does not die")
        except OSError as error:
            raise RuntimeUnavailable(f"cannot stop kato-{record.node_id}: {error}") from error

    def _heard_of_exit(self, node_id: str, deployment: str, exit_status: int | None) -> None:
        if deployment != self._deployment:
            return
        if exit_status is not None:
            self._exit_statuses[node_id] = exit_status
            while len(self._exit_statuses) > _UNHEARD_EXITS_MAX:
                del self._exit_statuses[next(iter(self._exit_statuses))]
        for listener in self._listeners:
            if listener.qsize() < _UNHEARD_EXITS_MAX:
                listener.put_nowait(node_id)


async def _until_none(queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
    while (node_id := await queue.get()) is not None:
        yield node_id


def _status(trace: Trace) -> NodeStatus:
    record = trace.record
    liveness = Liveness(trace.life)
    if record is None:
        return NodeStatus(node_id=trace.node_id, liveness=liveness)
    address = Address(host=HOST, port=record.port)
    alive = liveness is Liveness.ALIVE
    return NodeStatus(
        node_id=record.node_id,
        liveness=liveness,
        deployment=record.deployment,
        role=record.role,
        spec_hash=record.spec_hash,
        created_at_s=record.created_at_s,
        internal=address,
        external=address,
        pid=record.pid,
        memory_bytes=_resident_bytes(record.pid) if alive else None,
    )


def _machine() -> str:
    """Return what tells this machine from others. Source: machine-id(5); a container may have none, but a name."""
    try:
        return Path("/etc/machine-id").read_text("ascii").strip() or socket.gethostname()
    except (OSError, ValueError):
        return socket.gethostname()


def _resident_bytes(pid: int) -> int | None:
    """Source: proc(5), /proc/PID/statm, second field, in pages."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return None


def _with_tail(message: str, log: Path) -> str:
    tail = nodelogs.tail(log)
    return f"{message}; its log ends:\n{tail}" if tail else f"{message}, and logged nothing"

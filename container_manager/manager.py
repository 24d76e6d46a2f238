"""`KatoContainerManager`: processors from plain Python, without a gateway (api.md, section 3)."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import threading
import time
import weakref
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Literal, TypedDict, TypeVar

import kato_node
from container_manager.errors import ImageMissing, NameTaken, RuntimeUnavailable, StartFailed
from container_manager.labels import name_for_people, node_id_for, processor_id_for
from container_manager.readiness import NeverHealthy, wait_until_healthy
from container_manager.runtime import Runtime
from container_manager.runtimes.process import DEFAULT_ENTRY, MONGO_ENTRY, ProcessRuntime
from container_manager.spec import Liveness, NodeSpec, NodeStatus

logger = logging.getLogger(__name__)

DEPLOYMENT = "static"
DEFAULT_HOME = "~/.kato"
DEFAULT_IMAGE = f"kato-platform:{kato_node.__version__}"
DEFAULT_TIMEOUT_S = 60.0
CONTAINER_MEMORY_MAX_BYTES = 512 * 2**20
CONTAINER_CPUS_MAX = 1.0
# The configuration of processor.md, section 8: a closed list. Each is a setting of the node, in capitals.
CONFIG_NAMES = frozenset(
    {
        "max_pattern_length",
        "stm_mode",
        "persistence",
        "recall_threshold",
        "max_predictions",
        "min_prediction_symbols",
        "rank_sort_algo",
        "sort_symbols",
        "vector_neighbors",
        "vector_distance_max",
        "process_predictions",
        "smoothness",
        "quiescence",
    }
)
# What of our own environment a static node is to share: where it stores, and how much it says.
_SHARED_SETTINGS = ("MONGO_URL", "MONGO_DATABASE", "LOG_LEVEL")

_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")

_T = TypeVar("_T")
Wanted = Literal["auto", "process", "docker"]
ConfigValue = str | int | float | bool | None


class ProcessorInfo(TypedDict):
    """A processor that runs: whose it is, and where it answers."""

    processor_id: str
    container_name: str
    port: int
    internal_url: str
    external_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The runtime that was chosen, and why."""

    runtime: Runtime
    reason: str


async def choose_runtime(
    *,
    wanted: Wanted,
    home: Path,
    deployment: str,
    image: str = DEFAULT_IMAGE,
    network: str | None = None,
    mongo_url: str | None = None,
) -> Choice:
    """Choose a runtime, which is not opened yet: for "auto" Docker if engine, image and MongoDB are all there.

    Args:
        network: the name of an existing network for the nodes; by default one of the deployment's own.
        mongo_url: where nodes reach MongoDB.
    Raises: ImageMissing, RuntimeUnavailable, for "docker" only: one line that says what is not there.
    """
    entry = MONGO_ENTRY if mongo_url else DEFAULT_ENTRY
    if wanted == "process":
        return Choice(runtime=ProcessRuntime(home, deployment, entry=entry), reason="asked for")
    try:
        runtime = await _docker_runtime(deployment, image, network, mongo_url)
    except (ImageMissing, RuntimeUnavailable) as error:
        if wanted == "docker":
            raise
        return Choice(runtime=ProcessRuntime(home, deployment, entry=entry), reason=f"no Docker: {error}")
    reason = "asked for" if wanted == "docker" else f"the engine answers and has {image}, and MONGO_URL is set"
    return Choice(runtime=runtime, reason=reason)


async def _docker_runtime(deployment: str, image: str, network: str | None, mongo_url: str | None) -> Runtime:
    """Return a Docker runtime that can be expected to work. Raises: ImageMissing, RuntimeUnavailable."""
    if not mongo_url:
        raise RuntimeUnavailable("MONGO_URL is not set, and containers cannot share an embedded database")
    if _is_loopback(mongo_url):
        raise RuntimeUnavailable(
            "MONGO_URL is an address of this host's loopback, which is another one in a container; set NODE_MONGO_URL"
        )
    try:
        from container_manager.runtimes.docker import DockerRuntime  # noqa: PLC0415 - the SDK is an extra
    except ImportError:
        raise RuntimeUnavailable(
            "the Docker SDK is not installed: pip install -e '.[docker]' in KATO's folder"
        ) from None
    runtime = DockerRuntime(deployment, network=network)
    await runtime.check_image(image)
    return runtime


def _is_loopback(mongo_url: str) -> bool:
    """Return whether some host of a MongoDB URL is this machine's loopback. Source: MongoDB, connection strings."""
    authority = mongo_url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2]
    return any(_LOOPBACK.fullmatch(host) for host in authority.lower().split(","))


class KatoContainerManager:
    """Creates and removes processors, each with a node of its own. Blocking, and safe to call from any thread.

    A processor belongs to a pair of user and session: creating it again finds it, running or with the memory that it
    left. It outlives the manager, and any manager of the same home can remove it. Used as a context manager, it removes
    on leaving what it created; memories stay.

    Args:
        home: KATO_HOME; by default the environment's, else ~/.kato.
        runtime: instead of the one that is chosen by RUNTIME, NODE_IMAGE, NODE_NETWORK, MONGO_URL and NODE_MONGO_URL.
        timeout_s: after which a call gives up, leaving nothing behind.
    Raises: ImageMissing, RuntimeUnavailable; ValueError for another RUNTIME than auto, process or docker.
    """

    def __init__(
        self, *, home: Path | None = None, runtime: Runtime | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._home = (home or Path(os.environ.get("KATO_HOME") or DEFAULT_HOME)).expanduser().absolute()
        self._image = os.environ.get("NODE_IMAGE") or DEFAULT_IMAGE
        self._timeout_s = timeout_s
        self._created: set[str] = set()
        self._creating: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._thread = _LoopThread()
        try:
            self._runtime = self._call(self._chosen()) if runtime is None else runtime
            self._call(self._runtime.open())
        except BaseException:
            self._thread.stop()
            raise

    def create_processor(
        self,
        user_id: str | None = None,
        session_id: str | None = None,
        config: Mapping[str, ConfigValue] | None = None,
    ) -> ProcessorInfo:
        """Start the processor of this user's session, or find it running with the same settings.

        Args:
            session_id: a fresh one if None.
            config: values of processor.md, section 8; the node checks them.
        Raises: ValueError for an unknown config name; NameTaken if it runs with other settings; StartFailed, with the
            node's own words, for a value it refuses; StartTimeout, ResourcesExhausted, RuntimeUnavailable.
        """
        user_id = user_id or "anonymous"
        session_id = session_id or secrets.token_hex(6)
        processor_id = processor_id_for(user_id, session_id)
        in_container = not self._runtime.capabilities.shares_files
        spec = NodeSpec(
            node_id=node_id_for(processor_id),
            deployment=DEPLOYMENT,
            role="static",
            image=self._image if in_container else None,
            env=self._settings(processor_id) | settings_of(config or {}),
            memory_max_bytes=CONTAINER_MEMORY_MAX_BYTES if in_container else None,
            cpus_max=CONTAINER_CPUS_MAX if in_container else None,
            created_at_s=time.time(),
        )
        status = self._call(self._created_node(spec))
        self._created.add(processor_id)
        name = name_for_people(user_id, session_id, status.created_at_s)
        self._call(self._runtime.rename(spec.node_id, name))
        internal, external = status.internal, status.external
        if internal is None or external is None:
            raise RuntimeUnavailable(f"{spec.name} runs, but nobody can tell where")
        return {
            "processor_id": processor_id,
            "container_name": name,
            "port": external.port,
            "internal_url": internal.http_url,
            "external_url": external.http_url,
        }

    def remove_processor(self, processor_id: str) -> None:
        """Stop the processor's node and forget it; its memory stays. Idempotent. Raises: RuntimeUnavailable."""
        self._call(self._runtime.remove(node_id_for(processor_id)))
        self._created.discard(processor_id)

    def close(self) -> None:
        """Let go of the runtime; processors run on. Idempotent."""
        if self._thread.is_running:
            try:
                self._call(self._runtime.close())
            finally:
                self._thread.stop()

    def __enter__(self) -> KatoContainerManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for processor_id in sorted(self._created):
                self.remove_processor(processor_id)
        finally:
            self.close()

    async def _chosen(self) -> Runtime:
        choice = await choose_runtime(
            wanted=_wanted(os.environ.get("RUNTIME") or "auto"),
            home=self._home,
            deployment=DEPLOYMENT,
            image=self._image,
            network=os.environ.get("NODE_NETWORK") or None,
            mongo_url=_node_mongo_url(),
        )
        logger.info("runtime_chosen", extra={"runtime": choice.runtime.name, "reason": choice.reason})
        return choice.runtime

    def _settings(self, processor_id: str) -> dict[str, str]:
        shared = {name: os.environ[name] for name in _SHARED_SETTINGS if os.environ.get(name)}
        if self._runtime.capabilities.shares_files:
            return {"PROCESSOR_ID": processor_id, "KATO_HOME": str(self._home), **shared}
        return {"PROCESSOR_ID": processor_id, **shared, "MONGO_URL": _node_mongo_url() or ""}

    async def _created_node(self, spec: NodeSpec) -> NodeStatus:
        """Start a node or find it; one caller at a time: what another is starting looks dead until it runs."""
        async with self._creating.setdefault(spec.node_id, asyncio.Lock()):
            return await self._started_or_found(spec)

    async def _started_or_found(self, spec: NodeSpec) -> NodeStatus:
        found = await self._runtime.status(spec.node_id)
        if found.liveness is Liveness.DEAD:
            await self._runtime.remove(spec.node_id)
            try:
                return await self._runtime.start(spec, timeout_s=self._timeout_s)
            except NameTaken:  # another process is creating the same
                found = await self._runtime.status(spec.node_id)
        if found.liveness is not Liveness.ALIVE or found.internal is None:
            raise RuntimeUnavailable(f"{spec.name} is {found.liveness.value}; try again")
        if found.spec_hash != spec.spec_hash:
            raise NameTaken(f"{spec.env['PROCESSOR_ID']} runs already with other settings; remove_processor it first")
        try:
            await wait_until_healthy(found.internal, timeout_s=self._timeout_s)
        except NeverHealthy as error:
            raise StartFailed(f"{spec.name} runs already but does not answer: {error}") from None
        return found

    def _call(self, work: Coroutine[object, object, _T]) -> _T:
        return self._thread.run(work, patience_s=2 * self._timeout_s)


def _wanted(text: str) -> Wanted:
    match text:
        case "auto" | "process" | "docker":
            return text
    raise ValueError(f"RUNTIME: must be auto, process or docker, not {text!r}")


def _node_mongo_url() -> str | None:
    """Return where a node in a container reaches MongoDB."""
    return os.environ.get("NODE_MONGO_URL") or os.environ.get("MONGO_URL")


def settings_of(config: Mapping[str, ConfigValue]) -> dict[str, str]:
    """Return the node's settings for config values, as text: decimals, true and false, nothing for None.

    Raises: ValueError for a name that is no config value: as a setting it might mean something else, or nothing.
    """
    unknown = sorted(set(config) - CONFIG_NAMES)
    if unknown:
        raise ValueError(f"unknown config {', '.join(map(repr, unknown))}; there is {', '.join(sorted(CONFIG_NAMES))}")
    return {name.upper(): _text(value) for name, value in config.items()}


def _text(value: ConfigValue) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return format(Decimal(repr(value)), "f")
        case _:
            return str(value)


class _LoopThread:
    """An event loop in a thread of its own, for a caller that has none."""

    def __init__(self) -> None:
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="kato-manager", daemon=True)
        self._thread.start()
        self._up.wait()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def run(self, work: Coroutine[object, object, _T], *, patience_s: float) -> _T:
        """Run to the end there; what is given up here, is cancelled there. Raises: RuntimeUnavailable, or its own."""
        if not self.is_running:
            work.close()
            raise RuntimeUnavailable("this manager is closed; make a new one")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(patience_s)
        except TimeoutError:
            raise RuntimeUnavailable(f"no answer from the runtime within {patience_s:g} s") from None
        finally:
            future.cancel()

    def stop(self) -> None:
        """End the loop, cancelling what still runs in it."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._up.set()
        await self._ending.wait()

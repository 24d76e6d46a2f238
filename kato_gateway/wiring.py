"""The parts of the gateway, chosen by its settings and connected; for the program alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

from fastapi import FastAPI

from container_manager.manager import CONTAINER_CPUS_MAX, CONTAINER_MEMORY_MAX_BYTES, choose_runtime
from container_manager.runtime import Runtime
from container_manager.spec import NodeSpec
from kato_gateway.api.app import create_app
from kato_gateway.dataplane.attempts import Limits
from kato_gateway.dataplane.proxy import new_client
from kato_gateway.domain.admission import NODE_BYTES
from kato_gateway.domain.errors import RegistryUnavailable
from kato_gateway.domain.policy import LifecyclePolicy
from kato_gateway.ground import NewSpec
from kato_gateway.home import deployment_id, deployment_secret, secret_digest
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.nodes.admission import available_bytes
from kato_gateway.nodes.client import HttpNodeClient
from kato_gateway.registry.base import Registry
from kato_gateway.registry.sqlite import SqliteRegistry
from kato_gateway.settings import Settings, SettingsError
from kato_node import settings as node_settings
from kato_node.wire.tokens import node_secret

CONTAINER_BYTES = 64 * 2**20
"""What one more container takes of the host's memory, bound and with a small processor (measured: 36 MiB of its own,
the rest is the engine's, for each container)."""
_PAUSE_S = 3.0  # between two looks for a MongoDB that was not there
_log = logging.getLogger(__name__)

T = TypeVar("T")
Say = Callable[[str], None]


class CannotStart(Exception):
    """Something outside stands in the way; the text is one line that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The gateway, put together.

    Attributes:
        chosen: what its nodes are and why, for people; empty where they were asked for.
    """

    lifecycle: Lifecycle
    runtime: Runtime
    app: FastAPI
    chosen: str


def check(settings: Settings) -> None:
    """Refuse what no part would start with, before anything is there.

    Raises: SettingsError; the node's SettingsError for defaults that no node takes; CannotStart without a driver.
    """
    node_settings.from_environment(_environment(settings, shares_files=True))
    for name, url in (("MONGO_URL", settings.mongo_url), ("NODE_MONGO_URL", settings.node_mongo_url)):
        if url is not None:
            _check_url(name, url)


async def connected(settings: Settings, stack: AsyncExitStack, *, say: Say) -> Parts:
    """Choose and connect the parts; `stack` takes them apart again.

    Args:
        say: takes a line for people, now and then, while something is waited for.

    Raises: CannotStart, HomeError, GatewayError, ContainerError.
    """
    limits = Limits()
    secret = deployment_secret(settings.home, settings.secret_file)
    registry, deployment = await _registry(settings, secret, stack, say)
    runtime, chosen = await _runtime(settings, deployment, stack)
    nodes = HttpNodeClient(secret)
    stack.push_async_callback(nodes.close)
    await nodes.open()
    client = await stack.enter_async_context(new_client(limits))
    lifecycle = Lifecycle(
        registry=registry,
        runtime=runtime,
        client=nodes,
        new_spec=node_specs(settings, runtime=runtime, deployment=deployment, secret=secret),
        policy=policy_of(settings, runtime=runtime),
        secret=secret,
        memory=available_bytes,
        gateway_id=deployment_id(settings.home),
    )
    app = create_app(
        lifecycle,
        client,
        runtime=runtime.name,
        limits=limits,
        keys=settings.keys,
        gives_tokens=_asks_for_tokens(settings, shares_files=runtime.capabilities.shares_files),
    )
    return Parts(lifecycle=lifecycle, runtime=runtime, app=app, chosen=chosen)


def node_specs(settings: Settings, *, runtime: Runtime, deployment: str, secret: str) -> NewSpec:
    """Return what makes the specification of a node of the pool."""
    shares_files = runtime.capabilities.shares_files
    shared = _environment(settings, shares_files=shares_files)
    memory_max_bytes, cpus_max = settings.node_memory_max_bytes, settings.node_cpus_max
    if not shares_files:
        memory_max_bytes, cpus_max = memory_max_bytes or CONTAINER_MEMORY_MAX_BYTES, cpus_max or CONTAINER_CPUS_MAX

    def spec(node_id: str, created_at_s: float) -> NodeSpec:
        return NodeSpec(
            node_id=node_id,
            deployment=deployment,
            env={**shared, "NODE_ID": node_id, "NODE_SECRET": node_secret(secret, node_id)},
            created_at_s=created_at_s,
            image=None if shares_files else settings.node_image,
            memory_max_bytes=memory_max_bytes,
            cpus_max=cpus_max,
        )

    return spec


def policy_of(settings: Settings, *, runtime: Runtime) -> LifecyclePolicy:
    """Return what the gateway strives for."""
    return LifecyclePolicy(
        node_bytes=NODE_BYTES if runtime.capabilities.shares_files else CONTAINER_BYTES,
        warm_pool_size=settings.warm_pool_size,
        idle_timeout_s=settings.idle_timeout_s,
        session_ttl_s=settings.session_ttl_s,
    )


def _environment(settings: Settings, *, shares_files: bool) -> dict[str, str]:
    """Return the settings that every node of the pool gets.

    Args:
        shares_files: whether it sees this machine's files, and its loopback: a process does, a container does not.
    """
    shared = {**settings.config, "NODE_POOL": "1", "LOG_LEVEL": settings.log_level}
    if settings.mongo_url is not None:
        url = settings.mongo_url if shares_files else settings.node_mongo_url or settings.mongo_url
        shared |= {"MONGO_URL": url, "MONGO_DATABASE": settings.mongo_database}
    if shares_files:
        shared["KATO_HOME"] = str(settings.home)
    if _asks_for_tokens(settings, shares_files=shares_files):
        shared |= {"REQUIRE_TOKEN": "true"}
    return shared


def _asks_for_tokens(settings: Settings, *, shares_files: bool) -> bool:
    """Whether nodes ask for a session's token: with keys, and in containers, which each other's users may reach."""
    return bool(settings.keys) or not shares_files


def _check_url(name: str, url: str) -> None:
    """Have the driver read the URL. What it says of a bad one may hold the password, so nobody is told.

    Raises: SettingsError, CannotStart.
    """
    try:
        from pymongo.errors import PyMongoError  # noqa: PLC0415 - only where there is a MongoDB
        from pymongo.uri_parser import parse_uri  # noqa: PLC0415
    except ImportError as error:
        raise CannotStart(f"{name} needs the MongoDB driver: pip install -e '.[mongo]' in KATO's folder") from error
    if url.startswith("mongodb+srv://"):
        return  # would be looked up in the network
    try:
        parse_uri(url)
    except (PyMongoError, ValueError):
        message = "the driver cannot read it; special characters of name and password are to be percent-encoded"
        raise SettingsError(f"{name}: {message}") from None


async def _registry(settings: Settings, secret: str, stack: AsyncExitStack, say: Say) -> tuple[Registry, str]:
    """Open the registry. Returns: it, and the id of the installation whose it is."""
    proposed = deployment_id(settings.home)
    if settings.mongo_url is None:
        registry: Registry = SqliteRegistry(settings.home / "gateway.sqlite")
        stack.push_async_callback(registry.close)
        await registry.open()
        return registry, await registry.settled("deployment", proposed)
    from kato_gateway.registry.mongo import MongoRegistry  # noqa: PLC0415 - only where there is a MongoDB

    registry = MongoRegistry(settings.mongo_url, settings.mongo_database, gateway_id=proposed)
    await _patiently(registry.open, say)
    stack.push_async_callback(registry.close)
    deployment = await _patiently(lambda: registry.settled("deployment", proposed), say)
    digest = secret_digest(secret)
    if await _patiently(lambda: registry.settled("secret", digest), say) != digest:
        raise CannotStart(
            "DEPLOYMENT_SECRET_FILE: the gateways of this MongoDB have another secret; give this one the same file"
        )
    return registry, deployment


async def _patiently(ask: Callable[[], Awaitable[T]], say: Say) -> T:
    """Ask until MongoDB answers. Raises: CannotStart for what no waiting helps."""
    while True:
        try:
            return await ask()
        except RegistryUnavailable as error:
            if error.retry_after_s is None:
                raise CannotStart(f"MONGO_URL: {error.message}") from error
            say(f"KATO waits for its MongoDB; Ctrl-C ends that. {error.message}")
        await asyncio.sleep(_PAUSE_S)


async def _runtime(settings: Settings, deployment: str, stack: AsyncExitStack) -> tuple[Runtime, str]:
    """Choose and open the runtime. Returns: it, and what a person is told of the choice, if it was ours.

    Raises: ContainerError.
    """
    choice = await choose_runtime(
        wanted=settings.runtime,
        home=settings.home,
        deployment=deployment,
        image=settings.node_image,
        network=settings.node_network,
        mongo_url=settings.node_mongo_url or settings.mongo_url,
    )
    runtime = choice.runtime
    _log.info("runtime_chosen", extra={"runtime": runtime.name, "reason": choice.reason})
    stack.push_async_callback(runtime.close)
    await runtime.open()
    kind = "processes of this machine" if runtime.capabilities.shares_files else "containers"
    return runtime, f"Its nodes are {kind} ({choice.reason})." if settings.runtime == "auto" else ""

"""The gateway's routes about itself and its nodes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Header
from fastapi.responses import PlainTextResponse, Response

from kato_gateway.api import schemas
from kato_gateway.api.replies import node_reply
from kato_gateway.api.routes import Owner
from kato_gateway.domain.errors import GatewayError, RegistryUnavailable, RuntimeOutOfReach
from kato_gateway.domain.sessions import LIVE_STATUSES
from kato_gateway.events import Event
from kato_gateway.lifecycle import Lifecycle
from kato_gateway.registry.base import SessionQuery
from kato_node.wire.metrics import TEXT, Metric, exposition, wants_text
from kato_node.wire.web import StrictRoute, json_response

_RETRY_AFTER_S = 2.0


class OwnRoutes:
    """How the gateway itself is, and its nodes."""

    def __init__(self, lifecycle: Lifecycle, *, version: str, runtime: str) -> None:
        self._lifecycle = lifecycle
        self._version = version
        self._runtime = runtime
        self._started_at_s = time.monotonic()
        self._events: Counter[str] = Counter()
        lifecycle.events.subscribe(self._count)

    async def health(self) -> schemas.GatewayHealth:
        """Whether the gateway is alive."""
        return schemas.GatewayHealth(status="healthy", uptime=self._uptime_s)

    async def ready(self) -> schemas.Ready:
        """Whether the gateway can serve: 503 while something that it depends on is out of reach."""
        dependencies = dict(await self._lifecycle.survey.dependencies())
        failed = [name for name, state in dependencies.items() if state != "okay"]
        if failed:
            raise _not_ready(failed, dependencies)
        return schemas.Ready(status="ready", dependencies=dependencies)

    async def status(self) -> schemas.GatewayStatus:
        """How many sessions and nodes there are."""
        return schemas.GatewayStatus(
            status="okay",
            version=self._version,
            uptime=self._uptime_s,
            runtime=self._runtime,
            sessions=await self._sessions(),
            nodes=await self._nodes(),
        )

    async def metrics(self, accept: Annotated[str | None, Header()] = None) -> Response:
        """Show the gateway's figures, as JSON or as text for Prometheus."""
        pool = self._lifecycle.pool.view
        figures = schemas.GatewayMetrics(
            uptime_seconds=self._uptime_s,
            sessions=await self._sessions(),
            nodes=await self._nodes(),
            pool=schemas.PoolFigures(idle=pool.idle, starting=pool.starting, waiting=pool.waiting),
            events=dict(sorted(self._events.items())),
        )
        if wants_text(accept):
            return PlainTextResponse(exposition(_metrics(figures)), media_type=TEXT)
        return json_response(figures.model_dump())

    async def nodes(self, owner: Owner) -> schemas.NodeList:
        """Show the running nodes."""
        views = await self._lifecycle.survey.nodes(owner=owner)
        return schemas.NodeList(nodes=[node_reply(view, runtime=self._runtime) for view in views])

    async def node(self, node_id: str, owner: Owner) -> schemas.Node:
        """Show one running node, by its own id or its processor's."""
        return node_reply(await self._lifecycle.survey.node(node_id, owner=owner), runtime=self._runtime)

    async def stop_node(self, node_id: str, owner: Owner) -> schemas.StoppedNode:
        """Drain and stop one node, by its own id or its processor's; its sessions sleep until their next call."""
        record = await self._lifecycle.survey.record(node_id, owner=owner)
        await self._lifecycle.end_node(record.node_id)
        return schemas.StoppedNode(status="stopped", node_id=record.node_id, processor_id=record.processor_id)

    async def _sessions(self) -> dict[str, int]:
        directory = self._lifecycle.directory
        return {
            status.value: await directory.count_sessions(SessionQuery(statuses=frozenset({status})))
            for status in sorted(LIVE_STATUSES, key=lambda status: status.value)
        }

    async def _nodes(self) -> dict[str, int]:
        counted = Counter(node.state.value for node in await self._lifecycle.directory.nodes())
        return dict(sorted(counted.items()))

    def _count(self, event: Event) -> None:
        self._events[event.kind] += 1

    @property
    def _uptime_s(self) -> float:
        return round(time.monotonic() - self._started_at_s, 3)


def own_router(routes: OwnRoutes) -> APIRouter:
    """Return the gateway's own routes."""
    router = APIRouter(route_class=StrictRoute, tags=["gateway"])
    router.add_api_route("/health", routes.health, methods=["GET"], summary="Whether the gateway is alive")
    router.add_api_route("/ready", routes.ready, methods=["GET"], summary="Whether the gateway can serve")
    router.add_api_route("/status", routes.status, methods=["GET"], summary="Sessions and nodes, counted")
    router.add_api_route(
        "/metrics",
        routes.metrics,
        methods=["GET"],
        summary="The gateway's figures",
        response_model=schemas.GatewayMetrics,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    router.add_api_route("/nodes", routes.nodes, methods=["GET"], summary="List the running nodes")
    router.add_api_route("/nodes/{node_id}", routes.node, methods=["GET"], summary="Show a running node")
    router.add_api_route("/nodes/{node_id}", routes.stop_node, methods=["DELETE"], summary="Stop a running node")
    return router


def _not_ready(failed: list[str], dependencies: dict[str, str]) -> GatewayError:
    kind = RegistryUnavailable if "registry" in failed else RuntimeOutOfReach
    return kind(
        f"The gateway cannot serve: {' and '.join(failed)} out of reach; the log says more.",
        details={"dependencies": dependencies},
        retry_after_s=_RETRY_AFTER_S,
    )


def _metrics(figures: schemas.GatewayMetrics) -> list[Metric]:
    return [
        _metric("uptime_seconds", "gauge", "Since the gateway's start.", {"": figures.uptime_seconds}),
        _metric("sessions", "gauge", "Sessions by status.", figures.sessions, "status"),
        _metric("nodes", "gauge", "Nodes by state.", figures.nodes, "state"),
        _metric("pool", "gauge", "The warm pool.", figures.pool.model_dump(), "kind"),
        _metric("events_total", "counter", "What happened since the gateway's start.", figures.events, "kind"),
    ]


def _metric(
    name: str, kind: Literal["counter", "gauge"], explained: str, values: Mapping[str, float], label: str = ""
) -> Metric:
    samples = [({label: key} if label else {}, value) for key, value in values.items()]
    return Metric(name=f"kato_gateway_{name}", kind=kind, help=explained, samples=samples)

"""GET /metrics: the node's figures, as JSON or as Prometheus reads them, by what the request prefers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from kato_node.api.requests import session_named
from kato_node.node import Node
from kato_node.wire.metrics import TEXT, Metric, exposition, wants_text
from kato_node.wire.web import json_response


def metrics_endpoint(node: Node) -> Callable[[Request], Awaitable[Response]]:
    """Return what serves /metrics. Being watched is no activity."""

    async def serve(request: Request) -> Response:
        session_id = session_named(request, node)
        figures = await node.reads.metrics(session_id)
        if not wants_text(request.headers.get("accept")):
            return json_response(figures)
        status = await node.reads.status(session_id)
        return Response(exposition(_metrics({**status, **figures}, node)), media_type=TEXT)

    return serve


def _metrics(figures: Mapping[str, object], node: Node) -> list[Metric]:
    """Return the figures as metrics; those of the one session that was asked for carry its name nowhere."""
    labels = {"processor_id": str(figures["processor_id"])}
    described = (
        ("kato_observations_processed_total", "Observations applied since the node started.", "observations_processed"),
        ("kato_patterns_learned_total", "Learns since the node started, repeated ones included.", "patterns_learned"),
        ("kato_predictions_generated_total", "Predictions given since the node started.", "predictions_generated"),
        ("kato_patterns", "Patterns of the processor.", "patterns"),
        ("kato_sessions", "Sessions of the processor.", "sessions"),
        ("kato_stm_events", "Events of the session's short-term memory.", "stm_size"),
        ("kato_uptime_seconds", "Seconds since the node started.", "uptime_seconds"),
    )
    memory = node.health()["memory_usage"]
    values = [(name, text, figures[field]) for name, text, field in described]
    values.append(("kato_resident_memory_bytes", "Memory of the node's process.", memory))
    return [
        Metric(
            name=name,
            kind="counter" if name.endswith("_total") else "gauge",
            help=text,
            samples=[(labels, float(value))] if isinstance(value, int | float) else [],
        )
        for name, text, value in values
    ]

"""Figures of a service, as JSON or in the text format of Prometheus (version 0.0.4, which OpenMetrics readers take)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TEXT = "text/plain; version=0.0.4; charset=utf-8"
_TEXT_TYPES = ("text/plain", "application/openmetrics-text")
_WEIGHT = re.compile(r"[01](\.[0-9]{0,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: as Prometheus wants it, unit last, a counter's ending in `_total`.
        samples: the value for each set of labels.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: Sequence[tuple[Mapping[str, str], float]]


def wants_text(accept: str | None) -> bool:
    """Whether an Accept header gives `text/plain` or OpenMetrics a higher q than JSON. `*/*`, or none, is JSON."""
    ranges = dict(_range(part) for part in (accept or "").split(",") if part.strip())
    as_json = max(_weight(ranges, "application/json"), ranges.get("*/*", 0.0))
    return max(_weight(ranges, kind) for kind in _TEXT_TYPES) > as_json


def exposition(metrics: Sequence[Metric]) -> str:
    """Return the metrics as text, one block each."""
    lines = []
    for metric in metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        lines += [f"{metric.name}{_labels(labels)} {_number(value)}" for labels, value in metric.samples]
    return "\n".join(lines) + "\n"


def _weight(ranges: Mapping[str, float], kind: str) -> float:
    """Return the q of a media type by its own name or its family's; `*/*` speaks for JSON alone."""
    return ranges.get(kind, ranges.get(f"{kind.partition('/')[0]}/*", 0.0))


def _range(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip() for piece in part.lower().split(";"))
    weights = [value.strip() for name, _, value in (each.partition("=") for each in parameters) if name.strip() == "q"]
    if not weights:
        return kind, 1.0
    return kind, min(1.0, float(weights[0])) if _WEIGHT.fullmatch(weights[0]) else 0.0


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)

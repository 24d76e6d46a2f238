"""Emotives: named numbers felt during an event, and their means."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from kato_node.domain.state import Emotives


def current(entries: Iterable[tuple[int, Emotives]]) -> dict[str, float]:
    """Return the session's current emotives from its (time, emotives) entries. Source: processor.md, section 2."""
    return averaged(emotives for _, emotives in entries)


def averaged(window: Iterable[Emotives]) -> dict[str, float]:
    """Return, per key in sorted order, the mean over the entries that have the key; never -0.0."""
    felt: defaultdict[str, list[float]] = defaultdict(list)
    for emotives in window:
        for key, value in emotives.items():
            felt[key].append(value)
    return {key: math.fsum(felt[key]) / len(felt[key]) + 0.0 for key in sorted(felt)}

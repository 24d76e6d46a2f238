"""Vectors and the symbols that stand for them (processor.md, section 7)."""

from __future__ import annotations

import hashlib
import heapq
import math
import struct
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

from kato_node.domain.config import Config
from kato_node.domain.errors import VectorDimensionMismatch
from kato_node.domain.state import Vector

PREFIX = "VCTR|"


def summed(vectors: Sequence[Sequence[float]]) -> Vector:
    """Add one observation's vectors (at least one, all of one length) element by element, left to right."""
    # Not `sum`, which rounds but once from Python 3.12 on. + 0.0 turns -0.0 into 0.0.
    return tuple(reduce(add, column) + 0.0 for column in zip(*vectors, strict=True))


def symbol_of(vector: Vector) -> str:
    """Return the vector's symbol: the SHA-1 of its values as little-endian float64."""
    canonical = struct.pack(f"<{len(vector)}d", *vector)
    return PREFIX + hashlib.sha1(canonical, usedforsecurity=False).hexdigest()


def require_dimension(vector: Vector, expected: int | None) -> None:
    """Check the vector's length against the dimension, if there is one yet. Raises: VectorDimensionMismatch."""
    if expected is not None and len(vector) != expected:
        raise VectorDimensionMismatch(expected=expected, actual=len(vector))


def nearest(query: Vector, learned: Mapping[str, Vector], *, k: int, distance_max: float | None) -> tuple[str, ...]:
    """Return the symbols of the k nearest learned vectors: Euclidean, exact, nearest first, ties by symbol.

    Args:
        learned: symbol -> vector, all of the query's length.
        distance_max: the farthest that counts, itself included; None: no bound.
    """
    bound = math.inf if distance_max is None else distance_max
    distances = ((math.dist(query, vector), symbol) for symbol, vector in learned.items())
    return tuple(symbol for _, symbol in heapq.nsmallest(k, (near for near in distances if near[0] <= bound)))


def neighbors_of(
    vectors: Sequence[Sequence[float]], learned: Mapping[str, Vector], *, config: Config
) -> tuple[str, ...]:
    """Return the learned vector symbols that join the event of an observation with these vectors; see `observe`.

    Raises: VectorDimensionMismatch.
    """
    if not vectors or not learned or not config.vector_neighbors:
        return ()
    query = summed(vectors)
    require_dimension(query, len(next(iter(learned.values()))))
    return nearest(query, learned, k=config.vector_neighbors, distance_max=config.vector_distance_max)

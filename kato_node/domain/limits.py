"""The bounds of api.md, section 5, that the domain keeps; every one of them is configurable."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds beyond which the domain refuses a call.

    Attributes:
        symbols_per_event_max: strings of one observation.
        symbol_bytes_max: UTF-8 bytes of one string.
        vector_length_max: values of one vector.
        metadata_depth_max: nesting of lists and objects in metadata (a flat object has 1); keeps recursion bounded.
        observations_max: observations of one sequence.
        stm_events_max: events of the STM.
        stm_bytes_max: UTF-8 bytes of the STM's symbols, each counted as 4 at least, so that empty ones count too.
        pattern_bytes_max: bytes of one pattern with its emotives and metadata, and of what a session carries beside
            its STM until it learns (emotives, metadata, unlearned vectors).
    """

    symbols_per_event_max: int = 10_000
    symbol_bytes_max: int = 64 * 1024
    vector_length_max: int = 65_536
    metadata_depth_max: int = 100
    observations_max: int = 10_000
    stm_events_max: int = 10_000
    stm_bytes_max: int = 4 * _MIB
    pattern_bytes_max: int = 8 * _MIB


LIMITS = Limits()

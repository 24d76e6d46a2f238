"""Whom there is room for."""

from __future__ import annotations

from kato_gateway.domain.errors import CapacityReached

RETRY_AFTER_S = 5.0


def admit_node(live: int, *, nodes_max: int) -> None:
    """Let one more node be started beside the `live` ones. Raises: CapacityReached."""
    if live >= nodes_max:
        raise CapacityReached(
            f"{live} nodes live and {nodes_max} are admitted; end a session, or try again once one is idle.",
            details={"nodes": live, "nodes_max": nodes_max},
            retry_after_s=RETRY_AFTER_S,
        )

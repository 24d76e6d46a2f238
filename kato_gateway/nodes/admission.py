"""Whom there is room for: the installation's bound, the host's memory, and when to come again."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from kato_gateway.domain.admission import has_room, retry_after_s
from kato_gateway.domain.errors import CapacityReached
from kato_gateway.domain.sessions import NodeState, SessionStatus
from kato_gateway.events import Event
from kato_gateway.ground import Ground
from kato_gateway.registry.base import SessionQuery
from kato_gateway.sessions.activity import Activity

QUEUE_MAX = 1_000
"""Users' starts that wait at once."""

_SESSIONS_MAX = 10_000
_ENDS_MAX = 1_000
_MEMINFO = Path("/proc/meminfo")
_AVAILABLE = re.compile(r"^MemAvailable: +([0-9]+) kB$", re.MULTILINE)

Memory: TypeAlias = Callable[[], int | None]
"""What the host could still give, in bytes; None where it does not say."""


def available_bytes() -> int | None:
    """Return what the host could still give; None where there is no /proc/meminfo."""
    try:
        found = _AVAILABLE.search(_MEMINFO.read_text("ascii"))
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])


class Admission:
    """Lets nodes be started while there is room."""

    def __init__(self, ground: Ground, activity: Activity, memory: Memory) -> None:
        self._ground = ground
        self._activity = activity
        self._memory = memory
        self._ends_s: deque[float] = deque(maxlen=_ENDS_MAX)
        ground.events.subscribe(self._noted)

    async def admit_node(self) -> None:
        """Let one more node be started. Raises: CapacityReached, RegistryUnavailable."""
        live = await self._live()
        policy, memory = self._ground.policy, self._memory()
        if not has_room(live, nodes_max=policy.nodes_max, available_bytes=memory, node_bytes=policy.node_bytes):
            why = f"{policy.nodes_max} are admitted" if live >= policy.nodes_max else "the host's memory admits no more"
            raise CapacityReached(
                f"{live} nodes live and {why}; end a session, or try again once one is idle.",
                details={"nodes": live, "nodes_max": policy.nodes_max},
                retry_after_s=await self.retry_after_s(),
            )

    async def _live(self) -> int:
        """Return how many nodes live on this engine, exactly if that may matter."""
        live = await self._ground.registry.count_nodes()
        if live < self._ground.policy.nodes_max:
            return live
        ours = (node for node in await self._ground.registry.nodes() if node.is_on(self._ground.engine))
        return sum(node.state is not NodeState.ENDED for node in ours)

    async def admit_waiting(self, waiting: int) -> None:
        """Let one more start wait beside the `waiting` ones. Raises: CapacityReached, RegistryUnavailable."""
        if waiting >= QUEUE_MAX:
            raise CapacityReached(
                f"{waiting} starts wait already; try again later.",
                details={"waiting": waiting, "waiting_max": QUEUE_MAX},
                retry_after_s=await self.retry_after_s(),
            )

    async def retry_after_s(self) -> float:
        """Return when a node is expected to be free, in seconds."""
        ground = self._ground
        query = SessionQuery(statuses=frozenset({SessionStatus.ACTIVE}))
        uses_s: dict[str, float] = {}
        for session in await ground.registry.sessions(query, limit=_SESSIONS_MAX):
            used_s = self._activity.last_use_s(session.session_id) or session.last_activity_at_s
            node_id = session.node_id or ""
            uses_s[node_id] = max(used_s, uses_s.get(node_id, 0.0))
        return retry_after_s(
            uses_s.values(),
            [ground.clock.monotonic_s() - at_s for at_s in self._ends_s],
            now_s=ground.clock.now_s(),
            idle_timeout_s=ground.policy.idle_timeout_s,
        )

    def _noted(self, event: Event) -> None:
        if event.kind == "node_ended":
            self._ends_s.append(self._ground.clock.monotonic_s())

"""Whom there is room for, who is next, and when to come again: pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

NODE_BYTES = 16 * 2**20
"""What one more node of the process runtime takes of the host's memory, bound and with a small processor (measured: 11
MiB of its own; the rest of its 45 MiB resident is shared with the fork server)."""

RESERVE_BYTES = 256 * 2**20
"""What is left to everything else on the host."""

RETRY_S_MIN = 1.0
RETRY_S_MAX = 3600.0
RECENT_S = 60.0


def has_room(live: int, *, nodes_max: int, available_bytes: int | None, node_bytes: int) -> bool:
    """Whether one more node may be started beside the `live` ones.

    Args:
        available_bytes: what the host could still give; None: it does not say, and only `nodes_max` counts.
    """
    return live < nodes_max and (available_bytes is None or available_bytes >= RESERVE_BYTES + node_bytes)


def retry_after_s(
    last_uses_s: Collection[float], end_ages_s: Collection[float], *, now_s: float, idle_timeout_s: float
) -> float:
    """Return when a node is expected to be free, in seconds from now, from RETRY_S_MIN to RETRY_S_MAX.

    That is when the one that has been idle longest stops by itself, or sooner if nodes have of late ended more often.

    Args:
        last_uses_s: when each bound node was last used; one in use, now.
        end_ages_s: how long ago nodes ended.
        idle_timeout_s: 0: none stops by itself.
    """
    recent = sum(age_s <= RECENT_S for age_s in end_ages_s)
    expected = [RETRY_S_MAX]
    if recent:
        expected.append(RECENT_S / recent)
    if idle_timeout_s and last_uses_s:
        expected.append(min(last_uses_s) + idle_timeout_s - now_s)
    return max(RETRY_S_MIN, min(expected))


class FairQueue(Generic[T]):
    """Who waits: users take turns, and each user's own are served in the order in which they came."""

    def __init__(self) -> None:
        self._by_user: OrderedDict[str | None, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._by_user.values()))

    def __iter__(self) -> Iterator[T]:
        """Yield everybody, user by user."""
        for waiting in self._by_user.values():
            yield from waiting

    def put(self, user: str | None, item: T) -> None:
        """Queue an item of the user's behind the user's others."""
        self._by_user.setdefault(user, deque()).append(item)

    def pop(self) -> T:
        """Take the next item of the user whose turn it is, who then comes last. Raises: KeyError if nobody waits."""
        user, waiting = self._by_user.popitem(last=False)
        item = waiting.popleft()
        if waiting:
            self._by_user[user] = waiting
        return item

    def leave(self, user: str | None, item: T) -> None:
        """Take an item out, if it still waits; its user keeps its turn."""
        waiting = self._by_user.get(user)
        if waiting is not None and item in waiting:
            waiting.remove(item)
            if not waiting:
                del self._by_user[user]

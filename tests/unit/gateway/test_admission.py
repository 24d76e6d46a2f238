"""Whom there is room for, who is next, and when to come again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kato_gateway.domain.admission import NODE_BYTES, RESERVE_BYTES, FairQueue, has_room, retry_after_s


def test_users_take_turns() -> None:
    """However many one user queues, every other user is served in between, each in the own order."""
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.put(item[0], item)
    assert len(queue) == 6
    assert [queue.pop() for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    with pytest.raises(KeyError):
        queue.pop()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3))))
def test_a_queue_serves_everybody_once(arrivals: list[tuple[str, int]]) -> None:
    """Nobody is lost or served twice, a user's own stay in order, and no user is served twice while another waits."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, (user, _) in enumerate(arrivals):
        queue.put(user, (user, number))
    served = [queue.pop() for _ in range(len(queue))]
    assert sorted(number for _, number in served) == list(range(len(arrivals)))
    for user in "abc":
        own = [number for name, number in served if name == user]
        assert own == sorted(own)
    for place, (user, _) in enumerate(served[1:], 1):
        if served[place - 1][0] == user:
            assert {name for name, _ in served[place:]} == {user}


def test_whoever_leaves_is_not_served() -> None:
    """An item that is taken out is gone, whether others of its user wait or not; once more is no error."""
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "b1"):
        queue.put(item[0], item)
    for item in ("a1", "b1", "b1", "c1"):
        queue.leave(item[0], item)
    assert list(queue) == ["a2"]
    assert queue.pop() == "a2"
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("live", "available_bytes", "room"),
    [
        (899, None, True),
        (900, None, False),
        (0, RESERVE_BYTES + NODE_BYTES, True),
        (0, RESERVE_BYTES + NODE_BYTES - 1, False),
    ],
)
def test_there_is_room_within_both_bounds(live: int, available_bytes: int | None, room: bool) -> None:
    """A node is admitted below the bound on their number, and while the host's memory has room for it."""
    assert has_room(live, nodes_max=900, available_bytes=available_bytes, node_bytes=NODE_BYTES) is room


@pytest.mark.parametrize(
    ("last_uses_s", "end_ages_s", "idle_timeout_s", "expected_s"),
    [
        ([900.0, 950.0], [], 200.0, 100.0),
        ([900.0], [], 0.0, 3600.0),
        ([], [], 200.0, 3600.0),
        ([100.0], [], 200.0, 1.0),
        ([1000.0], [50.0, 40.0, 30.0], 900.0, 20.0),
        ([1000.0], [100.0], 900.0, 900.0),
    ],
)
def test_a_refusal_says_when_a_node_is_expected_to_be_free(
    last_uses_s: list[float], end_ages_s: list[float], idle_timeout_s: float, expected_s: float
) -> None:
    """That is when the longest idle node stops, or sooner where nodes have of late ended more often."""
    assert retry_after_s(last_uses_s, end_ages_s, now_s=1000.0, idle_timeout_s=idle_timeout_s) == expected_s

"""The notes of use."""

from __future__ import annotations

from kato_gateway.sessions.activity import Activity


class Time:
    """A clock that stands."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_use_is_handed_over_once() -> None:
    """What was noted is taken once and not kept."""
    time = Time()
    activity = Activity(time)
    activity.touch("a")
    time.now_s = 101.0
    activity.touch("b")
    assert activity.last_use_s("a") == 100.0
    assert activity.take() == {"a": 100.0, "b": 101.0}
    assert activity.take() == {}
    assert activity.last_use_s("a") is None


def test_an_open_call_counts_as_use_until_it_ends() -> None:
    """While calls are open the session is in use now, each time anybody asks; their end is a use too."""
    time = Time()
    activity = Activity(time)
    activity.begin("a")
    activity.begin("a")
    activity.finish("a")
    time.now_s = 500.0
    assert activity.in_use("a")
    assert activity.last_use_s("a") == 500.0
    assert activity.take() == {"a": 500.0}
    time.now_s = 600.0
    activity.finish("a")
    assert not activity.in_use("a")
    time.now_s = 700.0
    assert activity.take() == {"a": 600.0}


def test_what_could_not_be_written_is_put_back() -> None:
    """Uses that come back do not hide newer ones."""
    time = Time()
    activity = Activity(time)
    activity.touch("a")
    activity.touch("b")
    taken = activity.take()
    time.now_s = 200.0
    activity.touch("a")
    activity.put_back(taken)
    assert activity.take() == {"a": 200.0, "b": 100.0}

"""Log events are names that can be searched for and counted: written out where they are logged, in snake_case."""

from __future__ import annotations

import re

from tests.architecture.log_events import log_calls, log_events

# The gateway's events are values with names of their own, which are collected from their type.
COMPUTED = ("kato_gateway.events",)


def test_every_event_is_written_out() -> None:
    """Each call of a logger names its event by a literal."""
    computed = [call.where for call in log_calls() if call.event is None]
    assert [where for where in computed if not where.startswith(COMPUTED)] == []


def test_every_event_is_a_name() -> None:
    """Each event is one name in snake_case: what varies stands beside it."""
    assert log_events() >= {"request", "message", "node_started", "session_created", "node_ended", "log_level_set"}
    assert [event for event in log_events() if not re.fullmatch(r"[a-z]+(_[a-z]+)*", event)] == []

"""What is being used right now, in memory: when each session was last called, and which have a call or socket open."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class Activity:
    """Notes of use between two flushes; holds nothing for a session that nobody has called since the last one.

    Args:
        now_s: the clock, seconds since the epoch.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._used_at_s: dict[str, float] = {}
        self._open: dict[str, int] = {}

    def touch(self, session_id: str) -> None:
        """Note a call on the session."""
        self._used_at_s[session_id] = self._now_s()

    def begin(self, session_id: str) -> None:
        """Note that a call or a socket of the session is open until `finish`; it does not expire meanwhile."""
        self._open[session_id] = self._open.get(session_id, 0) + 1
        self.touch(session_id)

    def finish(self, session_id: str) -> None:
        """Note the end of one `begin`."""
        left = self._open[session_id] - 1
        if left:
            self._open[session_id] = left
        else:
            del self._open[session_id]
        self.touch(session_id)

    def in_use(self, session_id: str) -> bool:
        """Whether a call or a socket of the session is open."""
        return session_id in self._open

    def last_use_s(self, session_id: str) -> float | None:
        """When the session was last called, if since the last flush; now, if it is in use."""
        return self._now_s() if self.in_use(session_id) else self._used_at_s.get(session_id)

    def take(self) -> dict[str, float]:
        """Hand over, and forget, when each session was last called since the last time; those in use, now."""
        taken, self._used_at_s = self._used_at_s, {}
        now_s = self._now_s()
        taken.update(dict.fromkeys(self._open, now_s))
        return taken

    def put_back(self, uses_at_s: Mapping[str, float]) -> None:
        """Take back what was handed over and not written; later uses stand."""
        self._used_at_s = {**uses_at_s, **self._used_at_s}

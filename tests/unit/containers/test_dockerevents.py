"""The follower of an engine's events, whatever comes."""

from __future__ import annotations

import threading

import pytest
from docker import APIClient
from docker.errors import DockerException

from container_manager.runtimes.dockerevents import Exits

PATIENCE_S = 20.0


async def test_what_nobody_foresaw_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    """After an event that cannot be understood the stream is followed anew, and the log says what it was."""
    again = threading.Event()
    failures: list[Exception] = [KeyError("timeNano")]

    def connect(_silence_s: float) -> APIClient:
        if failures:
            raise failures.pop()
        again.set()
        raise DockerException("out of reach")

    exits = Exits(connect, "ours")
    exits.open(0.0)
    assert again.wait(PATIENCE_S)
    await exits.close()
    assert [record.message for record in caplog.records] == ["events_not_understood"]

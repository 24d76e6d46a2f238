"""Which engine is which."""

from __future__ import annotations

import pytest

from container_manager.runtimes.dockerengine import identity

INFO = {"ID": "AAAA:BBBB", "Name": "host", "DockerRootDir": "/var/lib/docker"}


@pytest.mark.parametrize("change", [{"ID": "CCCC"}, {"Name": "copy-of-host"}, {"DockerRootDir": "/srv/second"}])
def test_engines_that_share_something_are_told_apart(change: dict[str, str]) -> None:
    """Two engines of one host, and the engines of a machine and its copy, which may have one ID, are two."""
    assert identity({**INFO, **change}) != identity(INFO)


def test_an_engine_stays_itself() -> None:
    """What changes from one start of an engine to the next is no part of what it is."""
    assert identity({**INFO, "SystemTime": "1", "Containers": 3}) == identity(INFO)

"""A world for each test."""

from __future__ import annotations

import pytest

from tests.integration.lifecycle.world import World


@pytest.fixture
async def world() -> World:
    """A world in which nothing runs and nothing is known."""
    return World()

"""A bound node for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.node.serving import Served, serving_node


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A static node, bound to PROCESSOR, on a store in memory."""
    async with serving_node() as node:
        yield node

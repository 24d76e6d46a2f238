"""More than a node can take: refused at once, with when to come again, and nothing of it is applied."""

from __future__ import annotations

import asyncio

import pytest

from kato_node import sessions
from kato_node.api import app
from kato_node.settings import Settings
from tests.contract.node.serving import PROCESSOR, Served, error_of, serving_node


async def refused(served: Served, symbol: str) -> None:
    """Observe, and see that it is refused."""
    reply = await served.http.post("/observe", json={"strings": [symbol]})
    assert (reply.status_code, error_of(reply)["code"]) == (429, "RATE_LIMITED")
    assert int(reply.headers["Retry-After"]) >= 1


async def test_bodies_of_unanswered_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """While storage is slow, a body that is too much together with those of the calls under way is refused; small ones
    are not; when they are answered there is room again, also after a call that was refused or broke off.
    """
    monkeypatch.setattr(app, "HELD_BYTES_MAX", 1_000)
    async with serving_node(settings=Settings(processor_id=PROCESSOR, body_bytes_max=800)) as served:
        served.disk.gate.clear()
        under_way = asyncio.create_task(served.http.post("/observe", json={"strings": ["a" * 600]}))
        await served.committing.wait()
        for _ in range(3):
            await refused(served, "b" * 600)
        small = asyncio.create_task(served.http.post("/observe", json={"strings": ["c"]}))
        served.disk.gate.set()
        assert [(await call).status_code for call in (under_way, small)] == [200, 200]
        assert (await served.http.post("/observe", json={"strings": ["b" * 700]})).status_code == 200
        lengths = [len(event[0]) for event in (await served.http.get("/stm")).json()["stm"]]
        assert lengths == [600, 1, 700]


async def test_unanswered_calls_of_a_node_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """While storage is slow, one call too many is refused, whatever its session; afterwards there is room again."""
    monkeypatch.setattr(sessions, "NODE_UNANSWERED_MAX", 1)
    async with serving_node() as served:
        served.disk.gate.clear()
        under_way = asyncio.create_task(served.http.post("/observe", json={"strings": ["a"]}))
        await served.committing.wait()
        await refused(served, "b")
        served.disk.gate.set()
        assert (await under_way).status_code == 200
        assert (await served.http.post("/observe", json={"strings": ["c"]})).status_code == 200
        assert (await served.http.get("/stm")).json()["stm"] == [["a"], ["c"]]

"""What is told of what happens: WS /events to a reader that does not read, and the log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message

from kato_gateway.api.watch import BEHIND_MAX, watch_router
from kato_gateway.dataplane.plane import OWNER
from kato_gateway.events import Event
from tests.integration.lifecycle.world import POLICY, World, created, serving


async def test_a_reader_that_falls_behind_is_told_to_come_again(world: World) -> None:
    """Whoever takes no events is closed with 1013 once the bound is passed, and holds nothing of ours."""
    async with serving(world) as gateway:
        app = FastAPI()
        app.include_router(watch_router(gateway))
        sent: list[Message] = []
        reading = asyncio.Event()

        async def send(message: Message) -> None:
            sent.append(message)
            if message["type"] == "websocket.send":
                await reading.wait()

        async def receive() -> Message:
            if not sent:
                return {"type": "websocket.connect"}
            await asyncio.Event().wait()
            raise AssertionError("nothing ever comes")

        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/events",
            "raw_path": b"/events",
            "root_path": "",
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
            OWNER: None,
        }
        watching = asyncio.create_task(app(scope, receive, send))
        while len(sent) < 2:  # noqa: ASYNC110 - a dependency of the route runs in a thread
            await asyncio.sleep(0.001)
        for _ in range(BEHIND_MAX + 1):
            gateway.events.publish(Event(kind="node_started", at_s=world.clock.now_s()))
        await watching
        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
        assert sent[-1]["code"] == 1013


@pytest.mark.parametrize("is_swept", [False, True])
@pytest.mark.parametrize(("exit_status", "level"), [(137, logging.WARNING), (0, logging.INFO)])
async def test_what_a_node_died_of_stands_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture, exit_status: int, level: int, is_swept: bool
) -> None:
    """A node that was killed is worth a warning, with its exit status; one that ended by itself is not."""
    caplog.set_level(logging.INFO)
    async with serving(world) as gateway:
        made = await created(world, gateway, "s")
        if is_swept:
            world.engine.listeners.clear()
        world.engine.kill(made.route.node_id, exit_status)
        await world.clock.turn(POLICY.sweep_interval_s + 1.0)
    [ended] = [record for record in caplog.records if record.message == "node_ended"]
    assert (ended.levelno, ended.__dict__["exit_status"]) == (level, exit_status)

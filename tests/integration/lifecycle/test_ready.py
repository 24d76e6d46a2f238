"""Readiness over HTTP, with what the gateway stands on out of reach."""

from __future__ import annotations

import aiohttp

from kato_gateway.domain.errors import RegistryUnavailable
from tests.integration.gateway.serving import gateway as over_http
from tests.integration.lifecycle.world import Phase, World

OKAY = {"registry": "okay", "runtime": "okay"}


async def test_ready_names_what_is_out_of_reach(world: World) -> None:
    """/ready is 503 while the registry or the runtime cannot be reached, says which, and is 200 again afterwards."""
    is_lost = False

    async def knob(name: str, phase: Phase) -> None:
        if is_lost and phase == "before" and name.startswith("registry."):
            raise RegistryUnavailable("the disk is gone")

    gateway = world.gateway(knob=knob)
    await world.run(gateway.start())
    async with over_http(gateway) as at, aiohttp.ClientSession() as client:

        async def ready() -> tuple[int, object, object]:
            async with client.get(f"{at.http_url}/ready") as response:
                body = await response.json()
                error = body.get("error", {})
                dependencies = body.get("dependencies") or error["details"]["dependencies"]
                return response.status, error.get("code"), dependencies

        assert await ready() == (200, None, OKAY)
        is_lost = True
        assert await ready() == (503, "STORAGE_UNAVAILABLE", {**OKAY, "registry": "unavailable"})
        is_lost = False
        world.engine.knobs.is_out_of_reach = True
        assert await ready() == (503, "RUNTIME_UNAVAILABLE", {**OKAY, "runtime": "unavailable"})
        await world.engine_returns()
        assert await ready() == (200, None, OKAY)
    await world.run(gateway.stop())

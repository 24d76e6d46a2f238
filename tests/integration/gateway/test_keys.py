"""What becomes of keys on the way through the gateway: asked for once, and sent on to nobody."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import aiohttp
import pytest

from container_manager.spec import Address
from kato_gateway.dataplane.admit import WITHOUT_KEY
from kato_gateway.dataplane.routes import Route
from kato_gateway.domain.owners import key_table
from tests.integration.gateway.serving import Node, Places, gateway, serving

ANN = "ann-has-the-first-key"
KEYS = key_table([f"ann:{ANN}"])
TOKEN = "kato1.the-session-s.own"


@dataclass
class Owned(Places):
    """Places that note whose each call was."""

    owners: list[str | None] = field(default_factory=list)

    async def resolve(self, session_id: str, *, owner: str | None = None) -> Route:
        """See Places."""
        self.owners.append(owner)
        return replace(await super().resolve(session_id, owner=owner), token=TOKEN)


async def call(front: Address, headers: dict[str, str]) -> None:
    """Make a call that must be answered by the node."""
    url = f"{front.http_url}/sessions/s/observe"
    async with aiohttp.request("POST", url, data=b"{}", headers=headers) as reply:
        assert reply.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {ANN}"},
        {"X-API-Key": ANN},
        {"X-API-Key": ANN, "Authorization": "Basic YW5uOng="},
        {"Authorization": f"Bearer {ANN}", "X-API-Key": "something else"},
    ],
)
async def test_the_node_gets_the_sessions_token_and_never_the_key(headers: dict[str, str]) -> None:
    """Whatever the client proved itself with stays here; the node gets what the session proves itself with."""
    node = Node()
    async with serving(node) as at, gateway(places := Owned({"s": [at]}), keys=KEYS) as front:
        await call(front, headers)
    [got] = node.received
    assert got.header("authorization") == f"Bearer {TOKEN}"
    assert got.header("x-api-key") is None
    assert ANN not in repr(got)
    assert places.owners == ["ann"]


async def test_without_keys_a_clients_credentials_stay_here_too() -> None:
    """What a client sends out of habit is not handed on."""
    node = Node()
    async with serving(node) as at, gateway(Owned({"s": [at]})) as front:
        await call(front, {"Authorization": f"Bearer {ANN}", "X-API-Key": ANN})
    [got] = node.received
    assert ANN not in repr(got)


async def test_without_a_key_nobody_is_asked() -> None:
    """A call without a good key is answered by the gateway alone, before its body is sent, and names no owner."""
    node = Node()
    async with serving(node) as at, aiohttp.ClientSession() as client:
        places = Owned({"s": [at]})
        async with gateway(places, keys=KEYS) as front:
            for headers in ({}, {"Authorization": "Bearer wrong-key-of-nobody"}):
                async with client.post(
                    f"{front.http_url}/sessions/s/observe", data=b"x" * 2**19, headers=headers, expect100=True
                ) as reply:
                    assert reply.status == 401
                    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
                    assert (await reply.json())["error"]["code"] == "UNAUTHENTICATED"
            for path in sorted(WITHOUT_KEY):
                async with client.get(f"{front.http_url}{path.decode()}") as reply:
                    assert reply.status != 401
    assert (node.received, places.owners) == ([], [])

"""Who has no key, no token or comes from elsewhere is refused on every documented route, and nothing has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.contract.published.calls import SESSION, code_of, example, filled, sent, state
from tests.contract.published.services import Call, Service, running_gateway

ANN, BOB = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef"
OPEN_AT_THE_GATEWAY = {"/health", "/ready"}
OPEN_AT_A_NODE = {"/health"}
WRONG = [
    "",
    "Bearer",
    "Bearer wrong",
    f"Basic {ANN}",
    f"Bearer {ANN}x",
    f"Bearer {ANN} {ANN}",
    "Bearer \xff",
    "x" * 4_000,
]
FOREIGN = [
    {"Host": "kato.example"},
    {"Host": "127.0.0.1.kato.example:80"},
    {"Origin": "https://kato.example"},
    {"Origin": "null"},
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway with the keys of Ann and Bob, called by Ann, whose session is `hers`."""
    home = tmp_path_factory.mktemp("guarded") / "home"
    with running_gateway(home, API_KEYS=f"ann:{ANN},bob:{BOB}") as running:
        running.client.headers["Authorization"] = f"Bearer {ANN}"
        running.ask("POST", "/sessions", {"session_id": "hers"})
        yield running


@pytest.fixture(scope="module")
def hers(guarded: Service) -> dict[str, Any]:
    """Ann's session, as she sees it."""
    return guarded.ask("GET", "/sessions/hers")


def test_every_route_needs_a_key(guarded: Service) -> None:
    """Without a key, or with one that is not known, each call but /health and /ready is 401 UNAUTHENTICATED."""
    document, before = guarded.document, list(state(guarded))
    with httpx.Client(base_url=guarded.url, timeout=60) as stranger:
        service = replace(guarded, client=stranger)
        for call in guarded.calls():
            url, body = filled(call, {"session_id": "hers", **_nodes(call)}), example(call, document)
            if call.path not in OPEN_AT_THE_GATEWAY:
                reply = sent(service, call, url, body)
                assert code_of(reply) == "UNAUTHENTICATED", url
                assert reply.headers["www-authenticate"].startswith("Bearer"), url
                for wrong in WRONG:
                    reply = service.client.request(call.method, url, content=body, headers=_authorization(wrong))
                    assert code_of(reply) == "UNAUTHENTICATED", f"{url} {wrong[:30]!r}"
    assert list(state(guarded)) == before


def test_anothers_session_is_none(guarded: Service) -> None:
    """With another's key, each call on a session is 404 SESSION_NOT_FOUND, and the session is as it was."""
    document, before = guarded.document, guarded.ask("GET", "/sessions/hers/cognition-data")
    for call in guarded.calls():
        if SESSION.match(call.path) and not call.path.endswith("/exists"):
            url = filled(call, {"session_id": "hers"})
            reply = sent(guarded, call, url, example(call, document), Authorization=f"Bearer {BOB}")
            assert code_of(reply) == "SESSION_NOT_FOUND", url
        elif any(parameter["name"] == "X-Session-ID" for parameter in call.parameters):
            headers = {"Authorization": f"Bearer {BOB}", "X-Session-ID": "hers"}
            reply = sent(guarded, call, filled(call, {}), example(call, document), **headers)
            assert code_of(reply) == "SESSION_NOT_FOUND", call.path
    assert guarded.ask("GET", "/sessions/hers/cognition-data") == before


def test_every_route_of_a_node_needs_a_token(guarded: Service, hers: dict[str, Any]) -> None:
    """At a node each call but /health needs its session's token: 401 without it, 403 for what it is not good for."""
    before = guarded.ask("GET", "/sessions/hers/cognition-data")
    other = guarded.ask("POST", "/sessions", {"session_id": "other"})["access_token"]
    with httpx.Client(base_url=hers["external_url"], timeout=60) as stranger:
        node = Service(name="node", url=hers["external_url"], client=stranger)
        document = node.document
        for call in node.calls():
            url, body = filled(call, {"session_id": "hers"}), example(call, document)
            if call.path in OPEN_AT_A_NODE:
                continue
            assert code_of(sent(node, call, url, body)) == "UNAUTHENTICATED", url
            for wrong in (*WRONG, f"Bearer {ANN}", f"Bearer {other}", f"Bearer {hers['access_token'][:-2]}"):
                reply = node.client.request(call.method, url, content=body, headers=_authorization(wrong))
                assert code_of(reply) == "UNAUTHENTICATED", f"{url} {wrong[:30]!r}"
            elsewhere = {"Authorization": f"Bearer {hers['access_token']}", "X-Session-ID": "other"}
            assert code_of(sent(node, call, url, body, **elsewhere)) == "FORBIDDEN", url
        reply = node.client.get("/stm", headers={"Authorization": f"Bearer {hers['access_token']}"})
        assert reply.json()["session_id"] == "hers"
    assert guarded.ask("GET", "/sessions/hers/cognition-data") == before


def test_a_page_from_elsewhere_is_refused(service: Service) -> None:
    """A service without keys refuses each call with a foreign Host or Origin, and a WebSocket's handshake too."""
    document, before = service.document, list(state(service))
    for call in service.calls():
        url, body = filled(call, {"session_id": "default", **_nodes(call)}), example(call, document)
        for foreign in FOREIGN:
            assert code_of(sent(service, call, url, body, **foreign)) == "FORBIDDEN", f"{url} {foreign}"
    for foreign in FOREIGN[2:]:
        address = service.url.replace("http", "ws", 1) + "/ws"
        with pytest.raises(InvalidStatus) as refusal, connect(address, additional_headers=foreign):
            pass
        assert refusal.value.response.status_code == 403
    assert list(state(service)) == before


def _authorization(value: str) -> list[tuple[bytes, bytes]]:
    return [(b"Authorization", value.encode("latin-1"))]


def _nodes(call: Call) -> dict[str, str]:
    return {"node_id": "unknown", "id": "unknown"} if call.path.startswith("/nodes/") else {}

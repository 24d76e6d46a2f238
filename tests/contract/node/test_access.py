"""Who may call on a node that is reached directly: tokens where they are required, this machine's own where not."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from kato_node.settings import Settings
from kato_node.wire.operations import OPERATIONS
from kato_node.wire.tokens import Grant, issued
from tests.contract.node.serving import (
    DEPLOYMENT_SECRET,
    PROCESSOR,
    SECRET,
    TOKEN_KEY,
    Served,
    error_of,
    say,
    serving_node,
)

OPERATION_PATHS = [
    (method, path.replace("{id}", "x").replace("{name}", "recall_threshold"))
    for operation in OPERATIONS
    for path in operation.paths
    for method in operation.methods
    if operation.name != "health"
]
CONTROL = [("GET", "/control/identity"), ("POST", "/control/bind"), ("POST", "/control/drain")]


def token(session_id: str = "default", *, processor_id: str = PROCESSOR, key: str = TOKEN_KEY) -> str:
    """Return a token under this processor's key, or under another one."""
    return issued(Grant(session_id=session_id, processor_id=processor_id), key=key)


def bearing(credential: str) -> dict[str, str]:
    """Return the header that carries a token."""
    return {"Authorization": f"Bearer {credential}"}


@pytest.fixture
async def guarded() -> AsyncIterator[Served]:
    """A node that requires tokens, with the sessions `default` and `s`."""
    settings = Settings(processor_id=PROCESSOR, node_secret=SECRET, require_token=True)
    async with serving_node(settings=settings) as served:
        opening = {"session_id": "s", "incarnation": "1", "config": {}}
        reply = await served.http.post("/control/sessions", json=opening, headers={"X-Kato-Secret": SECRET})
        assert reply.status_code == 200
        yield served


def refused(reply: httpx.Response, status: int, code: str) -> None:
    """Check a refusal; a 401 says what to send, and none repeats what was sent."""
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    assert ("www-authenticate" in reply.headers) == (status == 401)
    assert "kato1." not in reply.text


@pytest.mark.parametrize(("method", "path"), OPERATION_PATHS)
async def test_every_operation_needs_a_token(guarded: Served, method: str, path: str) -> None:
    """Without a token, or with what is none, each operation is UNAUTHENTICATED; with another's it is FORBIDDEN."""

    async def call(**headers: str) -> httpx.Response:
        return await guarded.http.request(method, path, content=b"{}" if method == "POST" else b"", headers=headers)

    bad = [
        "x",
        token(key="another-processor-s"),
        token(key=SECRET),
        token(key=DEPLOYMENT_SECRET),
        token(processor_id="another"),
        token()[:-1],
        SECRET,
    ]
    for headers in [{}, {"Authorization": token()}, {"X-API-Key": token()}, *map(bearing, bad)]:
        refused(await call(**headers), 401, "UNAUTHENTICATED")
    refused(await call(**bearing(token("s")), **{"X-Session-ID": "default"}), 403, "FORBIDDEN")
    right = await call(**bearing(token("s")), **{"X-Session-ID": "s"})
    assert right.status_code not in {401, 403}


async def test_everything_published_needs_a_token(guarded: Served) -> None:
    """The document of such a node says so, of all but /health, and it is so; sessions are the gateway's to make."""
    document = (await guarded.http.get("/openapi.json")).raise_for_status().json()
    assert document["security"] == [{"token": []}]
    assert list(document["components"]["securitySchemes"]) == ["token"]
    methods = [
        (method, path, operation.get("security") == [])
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert [path for _, path, free in methods if free] == ["/health"]
    for method, path, free in methods:
        reply = await guarded.http.request(method.upper(), re.sub(r"\{[^}]*\}", "x", path))
        assert (reply.status_code == 401) is not free, (method, path)
    refused(await guarded.http.post("/sessions", json={}, headers=bearing(token())), 404, "NOT_FOUND")


@pytest.mark.parametrize("root", ["/sessions", "/v2/sessions"])
async def test_a_session_in_the_path_must_be_the_tokens(guarded: Served, root: str) -> None:
    """A path that names another session than the token is FORBIDDEN, its health included."""
    for path in ("stm", "health"):
        refused(await guarded.http.get(f"{root}/default/{path}", headers=bearing(token("s"))), 403, "FORBIDDEN")
        refused(await guarded.http.get(f"{root}/default/{path}"), 401, "UNAUTHENTICATED")
        assert (await guarded.http.get(f"{root}/s/{path}", headers=bearing(token("s")))).status_code == 200


async def test_a_token_selects_its_session(guarded: Served) -> None:
    """A call with a token is a call of the session that the token names, and of no other."""
    for name in ("s", "default"):
        body = {"strings": [f"of {name}"]}
        reply = (await guarded.http.post("/observe", json=body, headers=bearing(token(name)))).raise_for_status()
        assert reply.json()["session_id"] == name
    for name in ("s", "default"):
        stm = (await guarded.http.get("/stm", headers=bearing(token(name)))).raise_for_status().json()
        assert (stm["session_id"], stm["stm"]) == (name, [[f"of {name}"]])


async def test_a_token_for_a_session_that_has_ended_opens_nothing(guarded: Served) -> None:
    """What the token names is not there any more."""
    refused(await guarded.http.get("/stm", headers=bearing(token("gone"))), 404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 401),
        ("?access_token=x", {}, 401),
        ("?session_id=s", {}, 401),
        (f"?access_token={token('s', key='another-processor-s')}", {}, 401),
        (f"?access_token={token('s', processor_id='another')}", {}, 401),
        (f"?access_token={token('s')}&session_id=default", {}, 403),
        (f"?access_token={token('s')}", {"X-Session-ID": "default"}, 403),
        ("?session_id=default", bearing(token("s")), 403),
        (f"?access_token={token('s')}", bearing("x"), 401),
    ],
)
async def test_a_socket_without_the_right_token_is_not_opened(
    guarded: Served, query: str, headers: dict[str, str], status: int
) -> None:
    """The handshake is answered with the error, as an HTTP reply."""
    with pytest.raises(InvalidStatus) as refusal:
        async with guarded.socket(query, additional_headers=headers):
            pass
    assert refusal.value.response.status_code == status
    assert json.loads(refusal.value.response.body or b"")["status"] == status


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", bearing(token("s"))),
        (f"?access_token={token('s')}", {}),
        (f"?access_token={token('s')}&session_id=s", {"Origin": "https://app.example"}),
    ],
)
async def test_a_socket_speaks_for_the_tokens_session(guarded: Served, query: str, headers: dict[str, str]) -> None:
    """With the token in the header, or in the query as a browser has to, the socket is the session's own."""
    async with guarded.socket(query, additional_headers=headers) as socket:
        answer = await say(socket, "observe", {"strings": ["a"]})
        assert answer["type"] == "observation_result"
        assert answer["data"]["session_id"] == "s"  # type: ignore[index]


async def test_health_is_told_to_everybody_and_tells_of_no_session(guarded: Served) -> None:
    """A probe has no token: it learns how the node is; of a session that it names nothing."""
    (await guarded.http.post("/observe", json={"strings": ["a"]}, headers=bearing(token("s")))).raise_for_status()
    told = [(await guarded.http.get("/health", headers=extra)).json() for extra in ({}, {"X-Session-ID": "s"})]
    assert [reply["stm_length"] for reply in told] == [0, 0]
    own = (await guarded.http.get("/health", headers=bearing(token("s")))).json()
    assert own["stm_length"] == 1
    refused(await guarded.http.get("/health", headers=bearing("x")), 401, "UNAUTHENTICATED")


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(("method", "path"), CONTROL)
async def test_control_routes_are_unknown_without_the_secret(method: str, path: str, required: bool) -> None:
    """Whatever else is sent, they answer exactly as a route that does not exist, and a token is no secret."""
    settings = Settings(processor_id=PROCESSOR, node_secret=SECRET, require_token=required)
    async with serving_node(settings=settings) as served:

        async def answer(to: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
            sent = {"X-Request-ID": "r", **headers}
            reply = await served.http.request(method, to, content=b"{}", headers=sent)
            shown = {name: value for name, value in reply.headers.items() if name != "date"}
            return reply.status_code, shown, reply.content

        unknown = await answer("/no-such-route")
        assert unknown[0] == 404
        wrong = ["", "x", SECRET[:-1], SECRET + "x", SECRET.upper(), DEPLOYMENT_SECRET, TOKEN_KEY, token()]
        for headers in [{}, bearing(SECRET), bearing(token()), *({"X-Kato-Secret": value} for value in wrong)]:
            assert await answer(path, **headers) == unknown
        assert (await answer("/control/identity" if method == "GET" else path, **{"X-Kato-Secret": SECRET}))[0] != 404


FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/observe"), ("GET", "/health"), ("GET", "/x"), ("GET", "/docs")]
)
async def test_web_pages_of_elsewhere_are_refused(
    served: Served, headers: dict[str, str], method: str, path: str
) -> None:
    """Where no token is required, what a browser sends for a page of elsewhere is FORBIDDEN, whatever it asks for."""
    refused(await served.http.request(method, path, headers=headers), 403, "FORBIDDEN")
    assert (await served.http.get("/stm")).json()["stm"] == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_web_pages_of_elsewhere_get_no_socket(served: Served, origin: str) -> None:
    """A browser opens WebSockets to anywhere for any page: the node does not answer it."""
    with pytest.raises(InvalidStatus) as refusal:
        async with served.socket(additional_headers={"Origin": origin}):
            pass
    assert refusal.value.response.status_code == 403


async def test_web_pages_of_this_machine_are_served(served: Served) -> None:
    """A page that this machine serves, at whatever port, may call and open sockets."""
    origin = {"Origin": "http://localhost:3000"}
    assert (await served.http.get("/stm", headers=origin)).status_code == 200
    async with served.socket(additional_headers=origin) as socket:
        assert (await say(socket, "ping"))["type"] == "pong"


async def test_a_node_that_others_reach_has_any_name() -> None:
    """A node that listens beyond loopback is called by names that it cannot know."""
    async with serving_node(settings=Settings(processor_id=PROCESSOR, host="0.0.0.0")) as served:
        assert (await served.http.get("/stm", headers={"Host": "kato-node-1"})).status_code == 200

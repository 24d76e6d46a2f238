"""Two owners at one real gateway: what each reaches, what neither does, and that no secret is written anywhere."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from kato_node.wire import docs
from kato_node.wire.tokens import node_secret, token_key
from tests.e2e.gateway_process import PATIENCE_S, Gateway, Json, gateway, start

Headers = dict[str, str]
KEYS = {"ann": "ann-has-the-first-key", "bob": "bob-has-the-second-key"}
WRONG = "a-key-that-nobody-has"
OPEN = {"/health", "/ready"} | docs.PATHS
KATO_TOKEN = re.compile(r"kato1\.[\w-]+\.[\w-]+")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with two keys, reachable from anywhere, that logs whatever it can; each owner has a session."""
    folder = tmp_path_factory.mktemp("keys")
    keys = folder / "keys"
    keys.write_text("# who may\n" + "".join(f"{owner}:{key}\n" for owner, key in KEYS.items()))
    settings = {"API_KEYS_FILE": str(keys), "GATEWAY_HOST": "0.0.0.0", "LOG_LEVEL": "DEBUG"}
    with gateway(folder / "home", **settings) as one:
        for owner in KEYS:
            made = ask(one, "POST", "/sessions", {"session_id": f"of-{owner}"}, headers=key(owner))
            assert (made["user_id"], made["session_id"]) == (owner, f"of-{owner}")
            ask(one, "POST", f"/sessions/of-{owner}/observe", {"strings": [owner]}, headers=key(owner))
        yield one


def key(owner: str) -> Headers:
    """Return the header that carries an owner's key."""
    return {"Authorization": f"Bearer {KEYS[owner]}"}


def call(
    running: Gateway, method: str, path: str, body: Json | None = None, headers: Headers | None = None
) -> httpx.Response:
    """Send one request with these headers."""
    return running.client.request(method, running.url + path, json=body, headers=headers)


def ask(running: Gateway, method: str, path: str, body: Json | None = None, headers: Headers | None = None) -> Json:
    """Send one request that must succeed; return the reply's body."""
    answer: Json = call(running, method, path, body, headers).raise_for_status().json()
    return answer


def code(reply: httpx.Response) -> tuple[int, str]:
    """Return an error's status and code."""
    return reply.status_code, reply.json()["error"]["code"]


def published(running: Gateway) -> list[tuple[str, str, Json | None]]:
    """Return every method and path that the gateway publishes, with the example of its body."""
    document = call(running, "GET", "/openapi.json").json()
    return [
        (method.upper(), path, _example(operation))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in {"get", "post", "put", "delete"}
    ]


def _example(operation: Json) -> Json | None:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = content.get("schema", {})
    found: Json | None = content.get("example") or next(iter(schema.get("examples", ())), None)
    return found if found is not None or "requestBody" not in operation else {}


def filled(path: str, session_id: str) -> str:
    """Return the path with this session in it."""
    return re.sub(r"\{[^}]*\}", "x", path.replace("{session_id}", session_id))


def test_everything_published_needs_a_key(running: Gateway) -> None:
    """Without a key, or with one that nobody has, every route but the open ones is UNAUTHENTICATED."""
    for method, path, body in [*published(running), ("GET", "/nothing", None), ("POST", "/control/bind", None)]:
        for headers in ({}, {"Authorization": f"Bearer {WRONG}"}, {"X-API-Key": WRONG}):
            reply = call(running, method, filled(path, "of-ann"), body, headers=headers)
            if path in OPEN:
                assert reply.status_code == 200
            else:
                assert code(reply) == (401, "UNAUTHENTICATED"), (method, path)
                assert reply.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("headers", [key("ann"), {"X-API-Key": KEYS["ann"]}])
def test_with_a_key_its_owner_is_served(running: Gateway, headers: Headers) -> None:
    """Either header opens the owner's own session, by path and by X-Session-ID."""
    assert ask(running, "GET", "/sessions/of-ann", headers=headers)["status"] == "active"
    assert ask(running, "GET", "/sessions/of-ann/stm", headers=headers)["stm"] == [["ann"]]
    assert ask(running, "GET", "/stm", headers={"X-Session-ID": "of-ann", **headers})["stm"] == [["ann"]]


def test_anothers_session_is_not_there(running: Gateway) -> None:
    """On every published route with a session in it, another's is what one that was never made is; nothing happens."""
    tried = 0
    for method, path, body in published(running):
        if "{session_id}" in path and not path.endswith("/exists"):
            reply = call(running, method, filled(path, "of-ann"), body, headers=key("bob"))
            assert code(reply) == (404, "SESSION_NOT_FOUND"), (method, path)
            tried += 1
    assert tried > 50
    assert code(call(running, "GET", "/stm", headers={"X-Session-ID": "of-ann", **key("bob")})) == (
        404,
        "SESSION_NOT_FOUND",
    )
    assert ask(running, "GET", "/sessions/of-ann/stm", headers=key("ann"))["stm"] == [["ann"]]


def test_anothers_names_cannot_be_taken(running: Gateway) -> None:
    """A live session's id is a conflict; a processor that another named first is forbidden."""
    for body, refusal in (
        ({"session_id": "of-ann"}, (409, "CONFLICT")),
        ({"node_id": "of-ann"}, (403, "FORBIDDEN")),
        ({"node_id": "default:ann"}, (403, "FORBIDDEN")),
    ):
        assert code(call(running, "POST", "/sessions", body, headers=key("bob"))) == refusal


def test_each_owner_sees_the_own_alone(running: Gateway) -> None:
    """Lists, counts and nodes show an owner what is that owner's; what is another's is what was never there."""
    for owner, other in (("ann", "bob"), ("bob", "ann")):
        listed = ask(running, "GET", "/sessions?limit=100", headers=key(owner))
        names = {session["session_id"] for session in listed["sessions"]}
        assert f"of-{owner}" in names
        assert not {name for name in names if other in name}
        assert ask(running, "GET", f"/sessions?user_id={other}", headers=key(owner))["sessions"] == []
        counted = ask(running, "GET", "/sessions/count", headers=key(owner))
        assert counted["active_session_count"] == len(names)
        assert ask(running, "GET", f"/sessions/of-{owner}/exists", headers=key(owner))["exists"]
        assert not ask(running, "GET", f"/sessions/of-{other}/exists", headers=key(owner))["exists"]
        nodes = ask(running, "GET", "/nodes", headers=key(owner))["nodes"]
        assert f"of-{owner}" in str(nodes)
        assert f"of-{other}" not in str(nodes)
    for method in ("GET", "DELETE"):
        theirs, never = (call(running, method, f"/nodes/{name}", headers=key("bob")) for name in ("of-ann", "no-name"))
        assert theirs.status_code == never.status_code == 404
        assert theirs.text.replace("of-ann", "no-name") == never.text
    assert ask(running, "GET", "/sessions/of-ann", headers=key("ann"))["status"] == "active"


def test_each_owner_hears_of_the_own_alone(running: Gateway) -> None:
    """The events of another's sessions are not told, nor do they stand in the snapshot."""
    with running.socket("/events", **key("bob")) as socket:
        snapshot = socket.recv(PATIENCE_S)
        assert "of-bob" in snapshot
        assert "ann" not in snapshot
        for owner in ("ann", "bob"):
            ask(running, "POST", "/sessions", {"session_id": f"heard-of-{owner}"}, headers=key(owner))
            ask(running, "DELETE", f"/sessions/heard-of-{owner}", headers=key(owner))
        heard: list[str] = []
        while not heard or "session_ended" not in heard[-1]:
            heard.append(str(socket.recv(PATIENCE_S)))
        assert "heard-of-bob" in heard[-1]
        assert "ann" not in str(heard)


def test_the_documentation_says_what_to_send(running: Gateway) -> None:
    """The OpenAPI document names both headers, and the paths that need neither."""
    document = call(running, "GET", "/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert sorted(name for each in document["security"] for name in each) == sorted(schemes)
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    free = {path for path, item in document["paths"].items() if item.get("get", {}).get("security") == []}
    assert free == OPEN & document["paths"].keys()


def test_each_owner_has_a_default_session(running: Gateway) -> None:
    """Calls at the root without a session mean the caller's own."""
    for owner in KEYS:
        ask(running, "POST", "/observe", {"strings": [f"by {owner}"]}, headers=key(owner))
    for owner in KEYS:
        assert ask(running, "GET", "/stm", headers=key(owner))["stm"] == [[f"by {owner}"]]
        assert ask(running, "GET", "/sessions/default", headers=key(owner))["user_id"] == owner


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/sessions/of-ann/ws", {}, 401),
        ("/sessions/of-ann/ws", {"Authorization": f"Bearer {WRONG}"}, 401),
        ("/sessions/of-ann/ws", key("bob"), 404),
        ("/ws?session_id=of-ann", {}, 401),
        ("/ws?session_id=of-ann", key("bob"), 404),
        ("/events", {}, 401),
        ("/nothing", {}, 401),
    ],
)
def test_a_socket_needs_its_owners_key(running: Gateway, path: str, headers: Headers, status: int) -> None:
    """Every handshake without the right key is refused with the error's status."""
    with pytest.raises(InvalidStatus) as refusal, running.socket(path, **headers):
        pass
    assert refusal.value.response.status_code == status


def test_a_socket_with_the_key_is_the_owners(running: Gateway) -> None:
    """With the right key the socket speaks for the session; the page that opened it does not matter."""
    with running.socket("/sessions/of-ann/ws", Origin="https://app.example", **key("ann")) as socket:
        socket.send(json.dumps({"type": "get_stm"}))
        assert json.loads(socket.recv(PATIENCE_S))["data"]["stm"] == [["ann"]]


def test_a_node_reached_directly_asks_for_the_sessions_token(running: Gateway) -> None:
    """The session's access_token opens its node, over HTTP and WebSocket; nothing else does, a key least of all."""
    ann, bob = (ask(running, "GET", f"/sessions/of-{owner}", headers=key(owner)) for owner in ("ann", "bob"))
    stm, tokens = f"{ann['external_url']}/stm", [session["access_token"] for session in (ann, bob)]
    for credential, expected in ((None, 401), (KEYS["ann"], 401), (WRONG, 401), (tokens[1], 401), (tokens[0], 200)):
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        reply = running.client.get(stm, headers=headers)
        assert reply.status_code == expected, credential
    assert reply.json()["stm"] == [["ann"]]
    socket_url = f"{ann['external_url'].replace('http', 'ws', 1)}/ws?access_token="
    with connect(socket_url + tokens[0]) as socket:
        socket.send(json.dumps({"type": "get_stm"}))
        assert json.loads(socket.recv(PATIENCE_S))["data"]["stm"] == [["ann"]]
    with pytest.raises(InvalidStatus), connect(socket_url + tokens[1]):
        pass


def test_a_token_is_no_key(running: Gateway) -> None:
    """What opens a node does not open the gateway."""
    token = ask(running, "GET", "/sessions/of-ann", headers=key("ann"))["access_token"]
    reply = call(running, "GET", "/sessions/of-ann/stm", headers={"Authorization": f"Bearer {token}"})
    assert code(reply) == (401, "UNAUTHENTICATED")


def test_control_routes_are_not_there(running: Gateway) -> None:
    """Through the gateway nobody reaches them; at the node a token and the keys do not open them."""
    session = ask(running, "GET", "/sessions/of-ann", headers=key("ann"))
    secret = (running.home / "secret").read_text()
    for path in ("/control/identity", "/sessions/of-ann/control/identity"):
        assert code(call(running, "GET", path, headers={"X-Kato-Secret": secret, **key("ann")})) == (404, "NOT_FOUND")
    at = f"{session['external_url']}/control/identity"
    opening = node_secret(secret, session["container_name"].removeprefix("kato-"))
    tried = ({"Authorization": f"Bearer {session['access_token']}"}, {"X-Kato-Secret": KEYS["ann"]})
    for headers in ({}, *tried, {"X-Kato-Secret": secret}):
        assert code(running.client.get(at, headers=headers)) == (404, "NOT_FOUND")
    assert running.client.get(at, headers={"X-Kato-Secret": opening}).status_code == 200


def test_no_secret_is_written_anywhere(running: Gateway) -> None:
    """Keys, tokens and secrets, derived ones too, stand in no log, command line, environment or file but their own."""
    call(running, "GET", "/stm", headers={"X-Session-ID": "of-ann", **key("ann")})
    call(running, "GET", f"/stm?access_token={KEYS['ann']}", headers={"Authorization": f"Bearer {WRONG}"})
    call(running, "POST", "/sessions", {"session_id": 1, "config": {"a": 1}}, headers=key("ann"))
    secret = (running.home / "secret").read_text().strip()
    nodes = [node["node_id"] for owner in KEYS for node in ask(running, "GET", "/nodes", headers=key(owner))["nodes"]]
    derived = [node_secret(secret, node_id) for node_id in nodes] + [token_key(secret, f"of-{each}") for each in KEYS]
    sought = [text.encode() for text in (*KEYS.values(), WRONG, *derived, secret)]
    texts = _contents([*running.home.rglob("*"), _log(running)])
    assert any(path.parent.name == "logs" and text for path, text in texts.items())
    assert b'"level": "DEBUG"' in texts[_log(running)]
    for path, text in texts.items():
        assert not KATO_TOKEN.search(text.decode("latin-1")), path
        assert [word for word in sought if word in text] == ([sought[-1]] if path.name == "secret" else []), path
    for process in running.processes():
        said = "\0".join([*process.cmdline(), *_environment(process)])
        assert not [word for word in (*KEYS.values(), *derived, secret) if word in said], process


def _contents(paths: Iterable[Path]) -> dict[Path, bytes]:
    """Return what each file holds; one that its node removes meanwhile holds nothing."""
    found = {}
    for path in paths:
        with suppress(FileNotFoundError):
            if path.is_file():
                found[path] = path.read_bytes()
    return found


def _log(running: Gateway) -> Path:
    return running.home.parent / f"{running.home.name}.log"


def _environment(process: psutil.Process) -> list[str]:
    return [f"{name}={value}" for name, value in process.environ().items()]


def test_what_holds_secrets_is_the_users_alone(running: Gateway) -> None:
    """Nobody else on this machine can read the home, nor the secret in it."""
    for path in (running.home, running.home / "secret"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_keys_only_this_machine_is_served(tmp_path: Path, host: str) -> None:
    """A gateway that anybody could reach does not start without keys, and says why in one line."""
    process = start(tmp_path / "home", GATEWAY_HOST=host)
    process.communicate(timeout=PATIENCE_S)
    said = (tmp_path / "home.log").read_text()
    assert process.returncode == 2
    assert said.startswith("kato-gateway: GATEWAY_HOST: without API_KEYS")
    assert said.count("\n") == 1


def test_without_keys_web_pages_of_elsewhere_are_refused(tmp_path: Path) -> None:
    """A page that a user of this machine reads elsewhere reaches neither gateway nor node, by name or by origin."""
    with gateway(tmp_path / "home") as one:
        session = ask(one, "POST", "/sessions", {})
        assert session["access_token"] is None
        for base in (one.url, session["external_url"]):
            for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
                assert code(one.client.get(f"{base}/health", headers=headers)) == (403, "FORBIDDEN")
                assert code(one.client.post(f"{base}/observe", json={}, headers=headers)) == (403, "FORBIDDEN")
            address = base.replace("http", "ws", 1) + "/ws"
            with (
                pytest.raises(InvalidStatus) as refusal,
                connect(address, additional_headers={"Origin": "https://evil.example"}),
            ):
                pass
            assert refusal.value.response.status_code == 403
        assert one.client.get(f"{one.url}/stm", headers={"Origin": "http://localhost:3000"}).status_code == 200

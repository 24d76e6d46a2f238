"""Who answers a request, decided on its head alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kato_gateway.dataplane.admit import (
    NOT_AT_ROOT,
    WEBSOCKET,
    WITHOUT_KEY,
    Decision,
    Forward,
    Head,
    Own,
    Refuse,
    admit,
    takes_lines,
)
from kato_gateway.domain.owners import NO_KEYS, KeyTable, key_table
from kato_node.wire.operations import OPERATIONS

EVERY_PATH = [
    (method, path, operation.mutating)
    for operation in OPERATIONS
    for path in operation.paths
    for method in operation.methods
]


ANN, BOB = "ann-has-the-first-key", "bob-has-the-second-key"
KEYS = key_table([f"ann:{ANN}", f"bob:{BOB}"])


def decide(method: str, target: str, *, keys: KeyTable = NO_KEYS, **headers: str) -> Decision:
    """Admit a request with these headers; `x_session_id` stands for X-Session-ID."""
    path, _, query = target.partition("?")
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    head = Head(method=method, path=path.encode("latin-1"), query=query.encode("latin-1"), headers=named)
    return admit(head, keys)


@pytest.mark.parametrize("family", ["/sessions/s-1", "/session/s-1", "/v2/sessions/s-1"])
@pytest.mark.parametrize(("method", "path", "mutating"), EVERY_PATH)
def test_every_operation_is_forwarded_under_a_session(family: str, method: str, path: str, mutating: bool) -> None:
    """Each operation of a node is forwarded from each path that names a session, with the path's tail."""
    path = path.replace("{id}", "x").replace("{name}", "x")
    assert decide(method, family + path) == Forward(session_id="s-1", target=path, mutating=mutating)


@pytest.mark.parametrize(("method", "path", "mutating"), EVERY_PATH)
def test_operations_at_the_root_mean_the_header_or_the_default(method: str, path: str, mutating: bool) -> None:
    """At the root X-Session-ID names the session, else it is `default`; three paths are the gateway's own there."""
    if path in NOT_AT_ROOT:
        assert decide(method, path) == Own()
        return
    path = path.replace("{id}", "x").replace("{name}", "x")
    assert decide(method, path) == Forward(session_id="default", target=path, mutating=mutating)
    named = decide(method, path, x_session_id="s-2")
    assert named == Forward(session_id="s-2", target=path, mutating=mutating)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/sessions",
        "/sessions/a",
        "/sessions/a/",
        "/sessions/a/extend",
        "/sessions/a/config",
        "/session/create",
        "/v2/sessions",
        "/v2/observe",
        "/v3/sessions/a/observe",
        "/observe/",
        "//observe",
        "/observe/x",
        "/pattern",
        "/pattern/",
        "/pattern/a/b",
        "/gene/",
        "/control/bind",
        "/sessions/a/control/bind",
        "/sessions/a/control/drain",
        "/sessions/a/sessions/b/observe",
        "/sessions/a/../control/bind",
        "/sessions/a/%2e%2e/control/bind",
        "/%6fbserve",
        "/docs",
        "/health",
        "/events",
    ],
)
def test_what_is_no_operation_is_the_gateways_own(path: str) -> None:
    """Control routes, unknown operations and the gateway's own paths are never forwarded, by any method."""
    for method in ("GET", "POST", "DELETE", WEBSOCKET):
        assert decide(method, path) == Own()


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/observe", ("POST",)),
        ("DELETE", "/sessions/a/stm", ("GET",)),
        ("PUT", "/predictions", ("GET", "POST")),
        ("HEAD", "/stm", ("GET",)),
        ("GET", "/sessions/a/ws", ("GET",)),
        (WEBSOCKET, "/sessions/a/observe", ("POST",)),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allow: tuple[str, ...]) -> None:
    """An operation asked for by another method is refused with the methods it has."""
    decision = decide(method, path)
    assert isinstance(decision, Refuse)
    assert (decision.code, decision.allow) == ("METHOD_NOT_ALLOWED", allow)


@pytest.mark.parametrize("session_id", ["", "%20", "a%2Fb", "..", "%2e%2e", "a%0A", "%FF", "-a", "a" * 129])
def test_an_impossible_session_does_not_exist(session_id: str) -> None:
    """An id that no session can have is answered as not found, and goes no further."""
    decision = decide("POST", f"/sessions/{session_id}/observe")
    assert isinstance(decision, Refuse)
    assert decision.code == "SESSION_NOT_FOUND"


def test_an_impossible_session_in_the_header_does_not_exist_either() -> None:
    """The same holds for X-Session-ID, an empty one included."""
    for session_id in ("", "a b", "é"):
        decision = decide("POST", "/observe", x_session_id=session_id)
        assert isinstance(decision, Refuse)
        assert decision.code == "SESSION_NOT_FOUND"


def test_a_request_names_one_session() -> None:
    """A header or query that names another session than the path is refused; the same one is no contradiction."""
    same = decide("GET", "/sessions/a%40b/stm", x_session_id="a@b")
    assert same == Forward(session_id="a@b", target="/stm")
    for other in (
        decide("GET", "/sessions/a/stm", x_session_id="b"),
        decide(WEBSOCKET, "/sessions/a/ws?session_id=b"),
    ):
        assert isinstance(other, Refuse)
        assert other.code == "VALIDATION_ERROR"


def test_path_and_query_are_passed_on_as_they_came() -> None:
    """What is percent-encoded stays so, and nothing is normalised."""
    assert decide("GET", "/sessions/a/pattern/PTRN%7C0%2F..?x=%20+y&&z=") == Forward(
        session_id="a", target="/pattern/PTRN%7C0%2F..?x=%20+y&&z="
    )
    assert decide("GET", "/predictions?unique_id=\xe9") == Forward(
        session_id="default", target="/predictions?unique_id=%E9"
    )


def test_a_websocket_may_name_its_session_in_the_query() -> None:
    """On a WebSocket at the root the header comes first, then ?session_id=, then `default`."""
    assert decide(WEBSOCKET, "/ws") == Forward(session_id="default", target="/ws")
    assert decide(WEBSOCKET, "/ws?session_id=q%2B1") == Forward(session_id="q+1", target="/ws")
    assert decide(WEBSOCKET, "/ws?session_id=q", x_session_id="h") == Forward(session_id="h", target="/ws")
    assert decide(WEBSOCKET, "/v2/sessions/p/ws?session_id=p") == Forward(session_id="p", target="/ws")


def test_the_query_names_no_session_over_http() -> None:
    """?session_id= is a WebSocket's way only."""
    assert decide("GET", "/stm?session_id=q") == Forward(session_id="default", target="/stm?session_id=q")


def test_the_clients_key_is_known() -> None:
    """The client's own Idempotency-Key is part of the decision."""
    decision = decide("POST", "/learn", idempotency_key="k-1")
    assert decision == Forward(session_id="default", target="/learn", mutating=True, key="k-1")


EVERYWHERE = [
    ("POST", "/sessions/s-1/observe"),
    ("GET", "/stm"),
    ("GET", "/sessions/s-1/observe"),
    (WEBSOCKET, "/sessions/s-1/ws"),
    (WEBSOCKET, "/ws"),
    (WEBSOCKET, "/events"),
    ("POST", "/sessions"),
    ("GET", "/sessions/s-1"),
    ("GET", "/status"),
    ("GET", "/metrics"),
    ("POST", "/health/"),
    ("GET", "/%68ealth"),
    ("GET", "/docs/x"),
    ("GET", "/control/identity"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize(("method", "target"), EVERYWHERE)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ANN},
        {"authorization": f"Basic {ANN}"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {ANN}x"},
        {"authorization": f"Bearer {ANN[:-1]}"},
        {"authorization": f"Bearer {ANN.upper()}"},
        {"authorization": f"Bearer ann:{ANN}"},
        {"authorization": "Bearer ann"},
        {"x-api-key": ""},
        {"x-api-key": f"Bearer {ANN}"},
        {"authorization": "Bearer wrong", "x-api-key": ANN},
        {"cookie": f"key={ANN}"},
    ],
)
def test_with_keys_nothing_is_answered_without_one(method: str, target: str, headers: dict[str, str]) -> None:
    """No key, a wrong one or one in the wrong place is UNAUTHENTICATED wherever it is sent, unknown routes included."""
    decision = decide(method, target, keys=KEYS, **headers)
    assert isinstance(decision, Refuse)
    assert decision.code == "UNAUTHENTICATED"
    assert ANN not in decision.message


@pytest.mark.parametrize(("method", "target"), EVERYWHERE)
@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {BOB}"}, {"x-api-key": BOB}])
def test_a_key_says_whose_call_it_is(method: str, target: str, headers: dict[str, str]) -> None:
    """With a key, in either header, the decision is the one that it is without keys, for the key's owner."""
    with_key, without = decide(method, target, keys=KEYS, **headers), decide(method, target)
    assert with_key == (without if isinstance(without, Refuse) else replace(without, owner="bob"))


@pytest.mark.parametrize("path", sorted(WITHOUT_KEY))
def test_a_few_paths_ask_for_no_key(path: bytes) -> None:
    """Whether the gateway serves, and what it could be asked, is told to everybody."""
    assert decide("GET", path.decode(), keys=KEYS) == Own()


@pytest.mark.parametrize(("method", "target"), EVERYWHERE)
@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"host": "localhost", "origin": "https://evil.example"}])
def test_without_keys_web_pages_of_elsewhere_are_refused(method: str, target: str, headers: dict[str, str]) -> None:
    """A name that was made to point here, or a page of another site, is FORBIDDEN; with a key neither matters."""
    decision = decide(method, target, keys=NO_KEYS, **headers)
    assert isinstance(decision, Refuse)
    assert decision.code == "FORBIDDEN"
    allowed = decide(method, target, keys=KEYS, x_api_key=ANN, **headers)
    assert getattr(allowed, "code", "") not in {"FORBIDDEN", "UNAUTHENTICATED"}


def test_one_path_may_mean_several_operations() -> None:
    """What is asked of a pattern depends on the method, and only what changes it needs a key; all are told of."""
    for method, mutating in (("GET", False), ("PUT", True), ("DELETE", True)):
        decision = decide(method, "/sessions/a/pattern/x")
        assert decision == Forward(session_id="a", target="/pattern/x", mutating=mutating)
    refused = decide("POST", "/sessions/a/pattern/x")
    assert isinstance(refused, Refuse)
    assert refused.allow == ("GET", "PUT", "DELETE")


@pytest.mark.parametrize("place", ["", "/sessions/a", "/session/a", "/v2/sessions/a"])
def test_only_an_import_may_be_of_any_length(place: str) -> None:
    """Lines that a node reads as they come have no limit, wherever the session is named; nothing else has none."""
    assert takes_lines("POST", f"{place}/import".encode())
    assert not takes_lines("GET", f"{place}/import".encode())
    assert not takes_lines("POST", f"{place}/observe".encode())
    assert not takes_lines("POST", f"{place}/pattern/import".encode())
    assert not takes_lines("POST", b"/x/import")

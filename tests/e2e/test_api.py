"""The gateway's interface, asked of a real one: errors in one form, and documentation that works when sent."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from kato_gateway.dataplane.admit import NOT_AT_ROOT
from kato_node.wire import schemas
from kato_node.wire.operations import JSON, OPERATIONS
from tests.e2e.gateway_process import Gateway, Json, gateway

PREFIXES = ("/sessions/{session_id}", "/session/{session_id}", "/v2/sessions/{session_id}")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway."""
    with gateway(tmp_path_factory.mktemp("api") / "home") as one:
        yield one


def error_of(reply: httpx.Response) -> tuple[int, str]:
    """Return an error's status and code; its envelope and request id must be there."""
    error = schemas.Error.model_validate(reply.json())
    assert error.status == reply.status_code
    assert reply.headers["X-Request-ID"]
    return error.status, error.error.code


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "NOT_FOUND"),
        ("GET", "/observe/", 404, "NOT_FOUND"),
        ("POST", "/control/bind", 404, "NOT_FOUND"),
        ("GET", "/sessions/default/control/identity", 404, "NOT_FOUND"),
        ("PATCH", "/sessions/default", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/observe", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/sessions/none", 404, "SESSION_NOT_FOUND"),
        ("DELETE", "/v2/sessions/none", 404, "SESSION_NOT_FOUND"),
        ("POST", "/sessions/none/extend", 404, "SESSION_NOT_FOUND"),
        ("POST", "/session/none/observe", 404, "SESSION_NOT_FOUND"),
        ("GET", "/sessions/a%20b/stm", 404, "SESSION_NOT_FOUND"),
        ("POST", "/sessions/default/extend?ttl_seconds=soon", 422, "VALIDATION_ERROR"),
        ("POST", "/sessions/default/extend?ttl_seconds=-1", 422, "VALIDATION_ERROR"),
        ("DELETE", "/sessions/default?purge=perhaps", 422, "VALIDATION_ERROR"),
        ("GET", "/gene/nothing", 404, "GENE_NOT_FOUND"),
    ],
)
def test_every_error_has_one_form(running: Gateway, method: str, path: str, status: int, code: str) -> None:
    """Unknown routes, wrong methods, unknown sessions and bad parameters answer with the envelope."""
    assert error_of(running.call(method, path)) == (status, code)


@pytest.mark.parametrize("path", ["/sessions", "/session/create", "/v2/sessions"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"session_id": "a b"}', "session_id"),
        (b'{"session_id": "count"}', "session_id"),
        (b'{"session_id": "create"}', "session_id"),
        (b'{"node_id": "../x"}', "node_id"),
        (b'{"node_id": 1}', "node_id"),
        (b'{"user_id": ""}', "user_id"),
        (b'{"ttl_seconds": 0}', "ttl_seconds"),
        (b'{"ttl_seconds": "60"}', "ttl_seconds"),
        (b'{"ttl_seconds": 1e300}', "ttl_seconds"),
        (b'{"sliding": 1}', "sliding"),
        (b'{"config": []}', "config"),
        (b'{"metadata": {"x": NaN}}', "metadata.x"),
        (b'{"processor": "x"}', "processor"),
        (b"[]", "body"),
    ],
)
def test_a_session_that_cannot_be_is_refused_by_field(running: Gateway, path: str, body: bytes, field: str) -> None:
    """A creation with a bad or unknown field names it, on each path, and creates nothing."""
    before = running.ask("GET", "/status")["sessions"]
    reply = running.client.post(running.url + path, content=body)
    assert error_of(reply) == (422, "VALIDATION_ERROR")
    assert [error["field"] for error in reply.json()["error"]["details"]["errors"]] == [field]
    assert running.ask("GET", "/status")["sessions"] == before


def test_a_bad_config_is_refused_as_the_node_does(running: Gateway) -> None:
    """Configuration is checked by the node; its refusal reaches the client, and no session is left."""
    wanted = {"session_id": "misconfigured", "config": {"persistence": 0, "speed": 1}}
    reply = running.call("POST", "/sessions", wanted)
    assert error_of(reply) == (422, "VALIDATION_ERROR")
    assert {error["field"] for error in reply.json()["error"]["details"]["errors"]} == {"persistence", "speed"}
    assert running.call("GET", "/sessions/misconfigured").status_code == 404


def test_malformed_json_is_told_apart(running: Gateway) -> None:
    """What is no JSON is MALFORMED_JSON, at the gateway's own routes and at forwarded ones; no body is an empty one."""
    for path in ("/sessions", "/observe"):
        for body in (b"{", b"\xff", b'{"a": }'):
            assert error_of(running.client.post(running.url + path, content=body)) == (400, "MALFORMED_JSON")
    assert running.client.post(running.url + "/sessions").status_code == 201


def test_a_body_beyond_the_limit_is_refused(running: Gateway) -> None:
    """More than 16 MiB is BODY_TOO_LARGE on every route, told before the body is sent."""
    address = urlsplit(running.url)
    for path in ("/sessions", "/observe", "/nothing"):
        with socket.create_connection((address.hostname, address.port or 0)) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**24 + 1}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(64).startswith(b"HTTP/1.1 413 ")


def test_the_callers_request_id_is_kept_if_it_is_sane(running: Gateway) -> None:
    """X-Request-ID comes back from own, forwarded and refused requests; one that is not sane is replaced."""
    for path in ("/health", "/stm", "/nothing", "/sessions/none/stm"):
        assert running.call("GET", path, x_request_id="mine").headers["X-Request-ID"] == "mine"
        assert running.call("GET", path, x_request_id="x" * 500).headers["X-Request-ID"] != "x" * 500


def test_an_expiry_can_be_moved(running: Gateway) -> None:
    """extend gives a session a new time to live from now, and without one its old again."""
    session = running.ask("POST", "/sessions", {"ttl_seconds": 60, "sliding": False})
    path = f"/sessions/{session['session_id']}"
    longer = running.ask("POST", f"{path}/extend?ttl_seconds=600.5")
    assert longer["ttl_seconds"] == 600.5
    assert longer["expires_at"] > session["expires_at"]
    assert running.ask("GET", path)["expires_at"] == longer["expires_at"]
    assert running.ask("POST", f"/v2{path}/extend")["ttl_seconds"] == 600.5


def test_a_key_makes_a_call_repeatable_through_the_gateway(running: Gateway) -> None:
    """The same Idempotency-Key gives the first reply and applies nothing; with another body it is refused."""
    path = f"/sessions/{running.ask('POST', '/sessions')['session_id']}"
    first = running.ask("POST", f"{path}/observe", {"strings": ["a"]}, idempotency_key="k")
    assert running.ask("POST", f"{path}/observe", {"strings": ["a"]}, idempotency_key="k") == first
    assert running.ask("GET", f"{path}/stm")["length"] == 1
    other = running.call("POST", f"{path}/observe", {"strings": ["b"]}, idempotency_key="k")
    assert error_of(other) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_the_status_counts(running: Gateway) -> None:
    """/status says how many sessions there are by status, and nodes by state."""
    before = running.ask("GET", "/status")
    running.ask("POST", "/sessions")
    after = running.ask("GET", "/status")
    assert after["sessions"]["active"] == before["sessions"]["active"] + 1
    assert after["nodes"]["bound"] >= 1
    assert (after["status"], after["runtime"]) == ("okay", "process")
    assert running.ask("GET", "/health")["status"] == "healthy"


def test_every_forwarded_operation_is_documented(running: Gateway) -> None:
    """OpenAPI has each operation under a session on each family of paths, and at the root where it is forwarded."""
    paths = running.ask("GET", "/openapi.json")["paths"]
    for operation in OPERATIONS:
        for path in operation.paths:
            for place in (*(prefix + path for prefix in PREFIXES), *(() if path in NOT_AT_ROOT else (path,))):
                assert {method.lower() for method in operation.methods} <= set(paths[place])
    for place in ("/sessions", "/session/create", "/v2/sessions", "/health", "/status", *PREFIXES):
        assert place in paths
    assert running.call("GET", "/docs").status_code == 200


def test_the_documentation_holds_together(running: Gateway) -> None:
    """Every reference leads to a schema, every parameter of a path is described, and no operation id occurs twice."""
    document = running.ask("GET", "/openapi.json")
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(re.findall(r'"(#/[^"]+)"', json.dumps(document))) <= known
    ids = []
    for path, item in document["paths"].items():
        shared = item.get("parameters", [])
        for method, operation in item.items():
            if method == "parameters":
                continue
            ids.append(operation["operationId"])
            described = {one["name"] for one in [*shared, *operation.get("parameters", [])] if one["in"] == "path"}
            assert described == set(re.findall(r"{(\w+)}", path)), path
            assert operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    assert len(ids) == len(set(ids))


def test_every_example_works_when_sent(running: Gateway) -> None:
    """Each documented operation of a session, sent in order with its example, succeeds with its documented reply."""
    document = running.ask("GET", "/openapi.json")
    creation = document["paths"]["/sessions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    session_id = running.ask("POST", "/sessions", creation["examples"][0])["session_id"]
    for operation in OPERATIONS:
        place = PREFIXES[0] + operation.paths[0]
        for method in operation.methods:
            described = document["paths"][place][method.lower()]
            path = place.replace("{session_id}", session_id)
            for parameter in described["parameters"]:
                if parameter["in"] == "path":
                    path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
            reply = running.client.request(method, running.url + path, content=_example(described))
            assert reply.status_code == 200, f"{method} {path}: {reply.text}"
            if operation.reply_media[0] == JSON:
                operation.reply.model_validate_json(reply.content)


def _example(described: Json) -> str | None:
    if "requestBody" not in described:
        return None
    [content] = described["requestBody"]["content"].values()
    example = content["example"]
    return example if isinstance(example, str) else json.dumps(example)

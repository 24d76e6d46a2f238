"""Whatever is sent to whatever route: an error in the common form, never a 500, and nothing has changed."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.contract.published.calls import answered, code_of, example, fields, filled, sent, state
from tests.contract.published.services import DEPLOYMENT_SECRET, METHODS, SECRET, Call, Service

BODY_BYTES_MAX = 16 * 2**20
KNOWN = {"session_id": "default"}
MALFORMED = [b"{", b'{"a": }', b"\xff\xfe", b"{'a': 1}", b'{"a": 1} b', b'{"a": "\x01"}', b'{"a": 1,}', b" ", b"nul"]
NOT_AN_OBJECT = [b"[]", b'"text"', b"7", b"true", b"NaN", b"[" * 100_000, b"[" * 300 + b"]" * 300]
# Never a value, wherever it stands.
NEVER = [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b'{"\\udfff": 1}', b'{"x": NaN}', b"[1e400]", b"9" * 5_000]
# A value in some places and a wrong type in the others.
SOMETIMES = [
    *(b"null", b"true", b"-1", b"1.5", b"1e100", b'""', b'"text"', b"[]", b"{}", b"[[]]", b'[["a"]]', b"[null]"),
    *(b"1" + b"0" * 30, b"1" + b"0" * 400, b'"' + b"x" * 70_000 + b'"', b'{"": 1}', b'{"$x": 1}', b'{"a.b": {}}'),
    *(b"[[1, 2], [3]]", b"[[true]]", b'{"x": [{"y": null}]}', b'"\\u0000"', b'{"\\u0000": 0}', b"-0.0", b"[" * 120),
]
UNKNOWN_IDS = ["unknown-1", "%00", "%FF", "%ED%A0%80", "a%20b", "%2e%2e%2fx", "-", "x" * 4_000, "%F0%9F%98%80", "😀"]
QUERIES = ["", "-1", "0", "1e999", "NaN", "text", "%00", "%FF", "%ED%A0%80", "x" * 4_000, "9" * 400, "٣", "null"]
# Their last word stands where a session's id does, though no session can have it.
LIKE_IDS = {"/session/create", "/sessions/count", "/session/count", "/v2/sessions/count"}
CONTROL = [
    *(("POST", "/control/bind"), ("GET", "/control/identity"), ("POST", "/control/sessions")),
    *(("GET", "/control/sessions/default"), ("DELETE", "/control/sessions/default"), ("POST", "/control/drain")),
]


@pytest.fixture(autouse=True)
def unchanged(service: Service) -> Iterator[None]:
    """After each test everything is as it was before."""
    service.ask("POST", "/observe", {"strings": ["kept"], "emotives": {"joy": 1}})
    before = list(state(service))
    yield
    assert list(state(service)) == before


def taking_json(service: Service) -> list[Call]:
    """Return the calls that take a JSON body."""
    return [call for call in service.calls() if call.content and call.content[0] == "application/json"]


def test_a_wrong_method_is_told_the_right_ones(service: Service) -> None:
    """A method that a path does not have is 405 METHOD_NOT_ALLOWED, and Allow names those that it has."""
    for path, item in service.document["paths"].items():
        has = {method.upper() for method in item if method in METHODS}
        url = filled(Call(path=path, method="", described=item[min(has).lower()], shared=_shared(item)), _ids(path))
        as_an_id = {"GET", "DELETE"} if path in LIKE_IDS else set()
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"} - has - as_an_id:
            reply = service.client.request(method, url)
            assert code_of(reply) == "METHOD_NOT_ALLOWED", f"{method} {url}"
            assert set(reply.headers["allow"].split(", ")) - {"HEAD"} == has, f"{method} {url}"
        assert code_of(service.client.request("BREW", url)) in {"METHOD_NOT_ALLOWED", "MALFORMED_JSON"}, url


def test_an_unknown_route_is_not_found(service: Service) -> None:
    """A path that is not documented is 404 NOT_FOUND, a documented one with a slash more included."""
    for call in service.calls():
        path = call.path.replace("{session_id}", "default").replace("{", "").replace("}", "")
        for url in (f"{path}/", f"{path}/x/y", f"/x{path}"):
            assert code_of(service.client.request(call.method, url)) in {"NOT_FOUND", "METHOD_NOT_ALLOWED"}, url


def test_what_is_not_json_is_malformed(service: Service) -> None:
    """A body that is not JSON in UTF-8 is 400 MALFORMED_JSON on each call that takes JSON."""
    for call in taking_json(service):
        for body in MALFORMED:
            reply = sent(service, call, filled(call, _ids(call.path)), body)
            assert code_of(reply) == "MALFORMED_JSON", f"{call.path} {body!r}"


def test_what_is_not_an_object_is_invalid(service: Service) -> None:
    """JSON of another type than an object, or nested without end, is refused on each call that takes JSON."""
    for call in taking_json(service):
        for body in NOT_AN_OBJECT:
            reply = sent(service, call, filled(call, _ids(call.path)), body)
            assert code_of(reply) in {"VALIDATION_ERROR", "MALFORMED_JSON"}, f"{call.path} {body[:20]!r}"


def test_an_unknown_field_is_named(service: Service) -> None:
    """A field that a call does not have is 422 VALIDATION_ERROR, which names it, and nothing of the rest applies."""
    for call in taking_json(service):
        whole = example(call, service.document)
        assert whole is not None
        body = {**json.loads(whole), "unknown_field": 1}
        reply = sent(service, call, filled(call, _ids(call.path)), json.dumps(body).encode())
        assert code_of(reply) == "VALIDATION_ERROR", call.path
        named = [error["field"] for error in reply.json()["error"]["details"]["errors"]]
        assert any("unknown_field" in field for field in named), call.path


def test_what_is_never_a_value_is_refused_in_every_field(service: Service) -> None:
    """NaN, infinities, lone surrogates and endless integers are refused in each field of each body."""
    for call in taking_json(service):
        for field in fields(call, service.document):
            for value in NEVER:
                body = b'{"%s": %s}' % (field.encode(), value)
                reply = sent(service, call, filled(call, _ids(call.path)), body)
                assert code_of(reply) in {"VALIDATION_ERROR", "MALFORMED_JSON"}, f"{call.path} {body[:60]!r}"


def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(service: Service) -> None:
    """A Content-Length of more than 16 MiB is 413 BODY_TOO_LARGE on each route but /import, before any of it came."""
    address = urlsplit(service.url)
    for call in service.calls():
        if call.path.endswith("/import"):
            continue
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        connection.putrequest(call.method, filled(call, _ids(call.path)))
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(BODY_BYTES_MAX + 1))
        connection.endheaders()
        reply = connection.getresponse()
        body = json.loads(reply.read())
        assert (reply.status, body["error"]["code"], body["status"]) == (413, "BODY_TOO_LARGE", 413), call.path
        connection.close()


def test_an_unknown_id_is_not_found(service: Service) -> None:
    """An id in a path that nothing has, whatever it is made of, is 404 and names what was not found."""
    document = service.document
    for call in service.calls():
        for name in [parameter["name"] for parameter in call.parameters if parameter["in"] == "path"]:
            for unknown in UNKNOWN_IDS:
                url = filled(call, {**_ids(call.path), name: unknown})
                if name == "session_id" and call.path.endswith("/exists"):
                    answered(sent(service, call, url, None))
                    continue
                code = code_of(sent(service, call, url, example(call, document)))
                assert code in {"NOT_FOUND", "VALIDATION_ERROR"} or code.endswith("_NOT_FOUND"), url


def test_an_unknown_session_in_the_header_is_not_found(service: Service) -> None:
    """An X-Session-ID that no session has is 404 SESSION_NOT_FOUND on each call that minds it."""
    for call in service.calls():
        if any(parameter["name"] == "X-Session-ID" for parameter in call.parameters) and call.path != "/health":
            for unknown in (b"unknown-1", b"a b", b"\xff", b"x" * 4_000, b"../x"):
                body = example(call, service.document)
                reply = _with_header(service, call, body, b"X-Session-ID", unknown)
                assert code_of(reply) == "SESSION_NOT_FOUND", f"{call.path} {unknown[:10]!r}"


def test_a_key_that_cannot_be_is_refused(service: Service) -> None:
    """An Idempotency-Key that is empty, too long or not printable is 422 on each call that takes one."""
    for call in service.calls():
        if any(parameter["name"] == "Idempotency-Key" for parameter in call.parameters):
            for key in (b"", b"k" * 256, b"\xff", b"k\tk"):
                reply = _with_header(service, call, example(call, service.document), b"Idempotency-Key", key)
                assert code_of(reply) == "VALIDATION_ERROR", f"{call.path} {key[:10]!r}"


@pytest.mark.parametrize("secret", [None, "", "wrong", DEPLOYMENT_SECRET, SECRET[:-1], "\xff"])
def test_control_routes_do_not_exist_without_the_secret(service: Service, secret: str | None) -> None:
    """A control route is unknown to whoever does not know the node's own secret; the deployment's opens none."""
    headers = {} if secret is None else {b"X-Kato-Secret": secret.encode("latin-1")}
    prefixes = [""] if service.name == "node" else ["", "/sessions/default", "/session/default", "/v2/sessions/default"]
    for method, path in CONTROL:
        for prefix in prefixes:
            reply = service.client.request(method, prefix + path, headers=headers, content=b"{}")
            assert code_of(reply) == "NOT_FOUND", f"{method} {prefix}{path}"


def _shared(item: dict[str, object]) -> tuple[dict[str, object], ...]:
    shared = item.get("parameters", [])
    assert isinstance(shared, list)
    return tuple(shared)


def _ids(path: str) -> dict[str, str]:
    """Return ids for a path: the session that lives, and of anything else one that does not."""
    return {**KNOWN, **({"node_id": "unknown", "id": "unknown"} if path.startswith("/nodes/") else {})}


def _with_header(service: Service, call: Call, body: bytes | None, name: bytes, value: bytes) -> httpx.Response:
    url = filled(call, _ids(call.path))
    return service.client.request(call.method, url, content=body, headers=[(name, value)])


class TestWhatMayPass:
    """What is a value in some places: nothing breaks, but something may well change."""

    @pytest.fixture(autouse=True)
    def unchanged(self) -> None:
        """Allow changes."""

    def test_any_value_in_any_field_is_answered(self, service: Service) -> None:
        """Each value in each field of each body is taken or refused in the common form; aliases are left out."""
        for call in [call for call in taking_json(service) if not call.described.get("deprecated")]:
            for field in fields(call, service.document):
                for value in SOMETIMES:
                    body = b'{"%s": %s}' % (field.encode(), value)
                    answered(sent(service, call, filled(call, _ids(call.path)), body))

    def test_any_value_of_any_parameter_is_answered(self, service: Service) -> None:
        """Each value of each query parameter, twice the same and an unknown one included, is taken or refused."""
        for call in service.calls():
            names = [parameter["name"] for parameter in call.parameters if parameter["in"] == "query"]
            url = filled(call, _ids(call.path)).partition("?")[0]
            for name in names:
                for value in QUERIES:
                    answered(sent(service, call, f"{url}?{name}={value}&{name}={value}&x=1", _body(service, call)))

    def test_a_body_where_none_belongs_is_answered(self, service: Service) -> None:
        """A body on a call that takes none is ignored or refused."""
        for call in service.calls():
            if call.content is None and call.method != "DELETE":
                for body in (b"{", b"[]", b'{"x": 1}', b"\xff", b"NaN"):
                    answered(sent(service, call, filled(call, _ids(call.path)), body))

    def test_any_path_is_answered(self, service: Service) -> None:
        """Any bytes as a path, percent-encoded or not, are answered in the common form."""
        for text in (
            "/",
            "//",
            "/%",
            "/%zz",
            "/..",
            "/%2e%2e/x",
            "/sessions//stm",
            "/sessions/%2F/stm",
            "/\x7f",
            "/;x",
        ):
            answered(service.client.get(service.url + quote(text, safe="/%;")))


def _body(service: Service, call: Call) -> bytes | None:
    return example(call, service.document)

"""The published documents are whole, and every example in them does what its schema says when it is sent."""

from __future__ import annotations

import re

import schemathesis

from tests.contract.published.calls import SESSION, example, filled, sent
from tests.contract.published.services import Call, Service


def test_every_example_is_answered_as_documented(service: Service) -> None:
    """Each documented call, sent with its examples in the document's order, succeeds with what its schema says."""
    document = service.document
    schema = schemathesis.openapi.from_dict(document)
    sessions = {
        prefix: service.ask("POST", "/sessions", {"session_id": f"s{number}"})["session_id"]
        for number, prefix in enumerate(["/sessions", "/session", "/v2/sessions"])
        if service.name == "gateway"
    }
    calls = service.calls()
    for call in sorted(calls, key=_is_last):
        under = SESSION.match(call.path)
        known = {"session_id": sessions[under[1]]} if under and sessions else {}
        url = filled(call, {**known, **_alive(service, call)})
        reply = sent(service, call, url, example(call, document))
        assert str(reply.status_code) in call.described["responses"], f"{call.method} {url}: {reply.text}"
        assert reply.is_success, f"{call.method} {url}: {reply.text}"
        schema[call.path][call.method].validate_response(reply)
    assert len(calls) > 15


def test_the_documents_hold_together(service: Service) -> None:
    """Every reference leads somewhere, ids are unique, path parameters are described, each call has its errors."""
    document = service.document
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(re.findall(r'"(#/[^"]+)"', service.client.get("/openapi.json").text)) <= schemas
    calls = service.calls()
    assert len({call.described["operationId"] for call in calls}) == len(calls)
    for call in calls:
        described = {parameter["name"] for parameter in call.parameters if parameter["in"] == "path"}
        assert described == set(re.findall(r"{(\w+)}", call.path)), call.path
        default = call.described["responses"]["default"]["content"]["application/json"]["schema"]
        assert default["$ref"].endswith("/Error"), call.path
        assert call.described["summary"], call.path
        assert "422" not in call.described["responses"], call.path


def _is_last(call: Call) -> bool:
    """Whether the call ends what the others need."""
    return call.method == "DELETE" and (bool(SESSION.fullmatch(call.path)) or call.path.startswith("/nodes"))


def _alive(service: Service, call: Call) -> dict[str, str]:
    """Return the id of a node that runs, for calls about one."""
    if not call.path.startswith("/nodes/"):
        return {}
    name = service.ask("POST", "/sessions", {"session_id": "s9"})["container_name"]
    return {match: name.removeprefix("kato-") for match in re.findall(r"{(\w+)}", call.path)}

"""Documented calls made real: their examples filled in, and what the reply must then be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from kato_node.wire import schemas
from kato_node.wire.errors import STATUS
from tests.contract.published.services import Call, Service

SESSION = re.compile(r"^(/sessions|/session|/v2/sessions)/\{session_id\}")


def filled(call: Call, known: Mapping[str, str]) -> str:
    """Return the call's path and query, its parameters as in `known`, else as in their examples."""
    path, query = call.path, {}
    for parameter in call.parameters:
        name = parameter["name"]
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", known.get(name) or parameter["example"])
        elif parameter["in"] == "query" and "example" in parameter:
            query[name] = parameter["example"]
    return f"{path}?{httpx.QueryParams(query)}" if query else path


def example(call: Call, document: Mapping[str, Any]) -> bytes | None:
    """Return the example of the call's body; None for a call without one."""
    if call.content is None:
        return None
    kind, content = call.content
    schema = resolved(content["schema"], document)
    shown = content["example"] if "example" in content else (content.get("examples") or schema["examples"])[0]
    is_text = isinstance(shown, str) and kind != "application/json"
    return shown.encode() if is_text else json.dumps(shown).encode()


def resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema, what it refers to included; of an optional one the part that is not null."""
    for part in schema.get("anyOf", ()):
        if part.get("type") != "null":
            return {**resolved(part, document), **schema}
    if "$ref" in schema:
        found = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return {**resolved(found, document), **schema}
    return schema


def fields(call: Call, document: Mapping[str, Any]) -> list[str]:
    """Return the names of the fields of the call's JSON body."""
    if call.content is None or call.content[0] != "application/json":
        return []
    return sorted(resolved(call.content[1]["schema"], document).get("properties", ()))


def sent(service: Service, call: Call, url: str, body: bytes | None, **headers: str) -> httpx.Response:
    """Send a call."""
    kind = {} if call.content is None else {"Content-Type": call.content[0]}
    return service.client.request(call.method, url, content=body, headers={**kind, **headers})


def code_of(reply: httpx.Response) -> str:
    """Return the code of an error, which must be one of the caller's own, in a whole envelope."""
    shown = f"{reply.request.method} {reply.request.url} {reply.status_code} {reply.text[:300]}"
    assert 400 <= reply.status_code < 500, shown
    error = schemas.Error.model_validate_json(reply.content)
    assert reply.headers["content-type"] == "application/json", shown
    assert reply.headers["x-request-id"], shown
    assert (STATUS[error.error.code], error.status) == (reply.status_code, reply.status_code), shown
    assert error.error.message, shown
    return error.error.code


def answered(reply: httpx.Response) -> None:
    """The call succeeded, or was refused in the common form."""
    if not reply.is_success:
        code_of(reply)


def state(service: Service) -> Iterator[object]:
    """Yield everything that a call could have changed: sessions, nodes, and what the default session has."""
    yield service.ask("GET", "/stm")["stm"]
    yield service.ask("GET", "/genes")["genes"]
    yield service.ask("GET", "/percept-data")["percept_data"]
    place = "" if service.name == "node" else "/sessions/default"
    status = service.ask("GET", f"{place}/status")
    yield status["time"], status["patterns"], status["sessions"]
    if service.name == "gateway":
        yield service.ask("GET", "/status")["sessions"]
        shown = service.ask("GET", "/sessions/default")
        yield shown["expires_at"], shown["metadata"], shown["session_config"]

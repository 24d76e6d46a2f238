"""OpenAPI is whole, true, and its examples work."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx

from kato_node.wire import docs, schemas, sessions
from kato_node.wire.operations import OPERATIONS
from tests.contract.node.serving import Served, serving_node

Described = dict[str, object]


async def test_every_example_works_when_sent_in_order(served: Served) -> None:
    """On a new processor each documented call, sent with its examples in the document's order, succeeds as it says."""
    document = (await served.http.get("/openapi.json")).json()
    for path, method, described in calls(document):
        if not described.get("deprecated"):
            reply = await sent(served.http, path, method, described)
            assert reply.is_success, (path, reply.text)
            assert str(reply.status_code) in described["responses"]  # type: ignore[operator]


async def test_the_document_names_every_route_and_no_control_route(served: Served) -> None:
    """Each path and alias of each operation is documented; control routes are not."""
    document = (await served.http.get("/openapi.json")).json()
    places = ("", *(f"{root}/{{session_id}}" for root in sessions.ROOTS))
    operations = [(place + path, item) for item in OPERATIONS for path in item.paths for place in places]
    own = [(path, item) for item in sessions.OPERATIONS for path in item.paths]
    expected = {(path, method.lower()) for path, item in (*operations, *own) for method in item.methods}
    assert {(path, method) for path, method, _ in calls(document)} == expected
    assert "/control" not in (await served.http.get("/openapi.json")).text
    assert "/ws" in document["info"]["description"]


async def test_the_document_is_consistent(served: Served) -> None:
    """Every reference leads to a schema, every operation id is unique, every documented operation has its errors."""
    document = (await served.http.get("/openapi.json")).json()
    for reference in references(document):
        kind, name = reference.removeprefix("#/components/").split("/")
        assert name in document["components"][kind]
    ids = [described["operationId"] for _, _, described in calls(document)]
    assert len(ids) == len(set(ids))
    for _, _, described in calls(document):
        assert described["responses"].keys() - {"201"} == {"200", "default"}  # type: ignore[attr-defined]


async def test_errors_are_what_the_document_says(served: Served) -> None:
    """A reply of an error is what the schema Error describes."""
    for reply in (await served.http.get("/nothing"), await served.http.post("/observe", json={"x": 1})):
        schemas.Error.model_validate_json(reply.content)


async def test_the_documentation_is_a_page(served: Served) -> None:
    """GET /docs shows /openapi.json with what this server has, and nothing of elsewhere; there is no second page."""
    page = await served.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in page.text
    assert "://" not in page.text
    for path, kind in ((docs.SCRIPT, "text/javascript"), (docs.STYLE, "text/css")):
        assert path in page.text
        file = await served.http.get(path)
        assert file.headers["content-type"].startswith(kind)
        assert "swagger-ui" in file.text
    assert (await served.http.get("/redoc")).status_code == 404


async def test_an_unbound_node_is_documented_too() -> None:
    """The document does not depend on a processor."""
    async with serving_node(bound=False) as served:
        assert (await served.http.get("/openapi.json")).status_code == 200


def calls(document: Described) -> Iterator[tuple[str, str, Described]]:
    """Yield each documented (path, method, description), in the document's order, parameters of the path included."""
    for path, item in document["paths"].items():  # type: ignore[attr-defined]
        shared = item.get("parameters", [])
        for method in [key for key in item if key != "parameters"]:
            yield path, method, {**item[method], "parameters": [*shared, *item[method]["parameters"]]}


async def sent(client: httpx.AsyncClient, path: str, method: str, described: Described) -> httpx.Response:
    """Send a documented call with its examples."""
    for parameter in described["parameters"]:  # type: ignore[attr-defined]
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
    body = described.get("requestBody")
    if body is None:
        return await client.request(method, path)
    [content] = body["content"].values()  # type: ignore[index]
    example = content["example"]
    return await client.request(method, path, content=example if isinstance(example, str) else json.dumps(example))


def references(value: object) -> Iterator[str]:
    """Yield every $ref."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)

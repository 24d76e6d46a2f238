"""Every operation over HTTP, and that its reply is what OpenAPI says."""

from __future__ import annotations

import json

import pytest

from kato_node.wire import schemas
from kato_node.wire.operations import BY_NAME, JSON, OPERATIONS, Operation
from tests.contract.node.serving import PROCESSOR, Served, serving_node

NAME_AB = "PTRN|76d7efca2e96cb5eeddf4e06ac96a0f424630135"


async def test_an_observation_is_acknowledged_with_the_sessions_place_in_time(served: Served) -> None:
    """POST /observe answers with time, STM length and the caller's unique_id, in the session `default`."""
    reply = await served.http.post("/observe", json={"strings": ["b", "a"], "unique_id": "u-1"})
    assert reply.status_code == 200
    assert reply.json() == {
        "status": "okay",
        "processor_id": PROCESSOR,
        "session_id": "default",
        "auto_learned_pattern": None,
        "time": 1,
        "stm_length": 1,
        "unique_id": "u-1",
    }
    assert (await served.http.get("/stm")).json()["stm"] == [["a", "b"]]


async def test_a_learned_pattern_is_predicted_and_can_be_read(served: Served) -> None:
    """What was learned is found by its name, with and without prefix, and predicted from a part of it."""
    assert await served.learned(["a"], ["b"]) == NAME_AB
    for name in (NAME_AB, NAME_AB.removeprefix("PTRN|")):
        pattern = (await served.http.get(f"/pattern/{name}")).json()["pattern"]
        assert (pattern["name"], pattern["pattern_data"], pattern["frequency"]) == (NAME_AB, [["a"], ["b"]], 1)
    await served.http.post("/observe", json={"strings": ["a", "b"]})
    for method in ("GET", "POST"):
        predicted = (await served.http.request(method, "/predictions")).json()
        assert predicted["count"] == 1
        assert predicted["predictions"][0]["name"] == NAME_AB


async def test_predictions_of_a_past_moment(served: Served) -> None:
    """GET /predictions?unique_id= predicts from the STM as it was right after that observation."""
    await served.learned(["a"], ["b"], ["c"])
    await served.http.post("/observe", json={"strings": ["a"], "unique_id": "first"})
    await served.http.post("/observe", json={"strings": ["b"], "unique_id": "second"})
    await served.http.post("/clear-stm")
    then = (await served.http.get("/predictions", params={"unique_id": "second"})).json()
    assert [prediction["matches"] for prediction in then["predictions"]] == [["a", "b"]]
    assert (await served.http.get("/predictions", params={"unique_id": "never"})).json()["predictions"] == []


async def test_a_sequence_is_applied_in_order(served: Served) -> None:
    """POST /observe-sequence gives each item its result and learns at the end what the STM then holds."""
    body = {"observations": [{"strings": ["a"]}, {"strings": ["b"]}], "learn_at_end": True}
    reply = (await served.http.post("/observe-sequence", json=body)).json()
    assert [item["sequence_position"] for item in reply["results"]] == [0, 1]
    assert reply["final_learned_pattern"] == NAME_AB
    assert (reply["observations_processed"], reply["final_stm_length"]) == (2, 0)


async def test_a_sequence_with_a_bad_item_applies_nothing(served: Served) -> None:
    """A bad item fails the call, names the item, and leaves no trace."""
    body = {"observations": [{"strings": ["a"]}, {"strings": [1]}]}
    reply = await served.http.post("/observe-sequence", json=body)
    assert reply.status_code == 422
    assert reply.json()["error"]["details"]["errors"][0]["field"].startswith("observations.1.strings")
    assert (await served.http.get("/stm")).json()["length"] == 0


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_every_path_of_an_operation_answers_as_documented(served: Served, operation: Operation) -> None:
    """Each path and alias, with each method, gives the reply that its model in OpenAPI describes, and nothing else."""
    await served.http.post("/observe-sequence", json=BY_NAME["observe_sequence"].example)
    await served.http.post("/observe", json={"strings": ["a", "b"], "emotives": {"joy": 1}, "metadata": {"x": [1]}})
    for path in operation.paths:
        for method in operation.methods:
            example = {name: parameter.example or "" for name, parameter in operation.parameters.items()}
            body = operation.example if isinstance(operation.example, str) else json.dumps(operation.example)
            given = None if operation.example is None else body
            reply = await served.http.request(method, path.format_map(example), content=given)
            assert reply.status_code == 200, reply.text
            assert reply.headers["content-type"] == operation.reply_media[0]
            if operation.reply_media[0] == JSON:
                operation.reply.model_validate_json(reply.content)
            if operation.name == "clear_all":  # the next path clears again; nothing else needs what it deleted
                assert (await served.http.get("/status")).json()["patterns"] == 0


async def test_predictions_are_what_their_schema_says(served: Served) -> None:
    """Predictions are sent without building a model of each, and still each is exactly what OpenAPI describes."""
    await served.learned(["a"], ["b"], ["c"])
    await served.learned(["a"], ["x"])
    await served.http.post("/observe", json={"strings": ["a"], "emotives": {"joy": 1.5}, "metadata": {"k": "v"}})
    await served.learned(["b"])
    await served.http.post("/observe-sequence", json={"observations": [{"strings": ["a"]}, {"strings": ["b"]}]})
    reply = await served.http.get("/predictions")
    checked = schemas.Predictions.model_validate_json(reply.content)
    assert checked.count == len(checked.predictions) == 3
    assert checked.future_potentials


async def test_cognition_and_percept_hold_what_was_observed(served: Served) -> None:
    """Percept-data is the latest observation; cognition-data holds the STM and the current emotives."""
    assert (await served.http.get("/percept-data")).json()["percept_data"] == {}
    await served.http.post("/observe", json={"strings": ["b", "a"], "emotives": {"joy": 1}})
    percept = (await served.http.get("/percept-data")).json()["percept_data"]
    assert percept == {"strings": ["a", "b"], "vectors": [], "emotives": {"joy": 1.0}, "metadata": {}, "path": []}
    cognition = (await served.http.get("/cognition-data")).json()["cognition_data"]
    assert (cognition["short_term_memory"], cognition["emotives"]) == ([["a", "b"]], {"joy": 1.0})


async def test_genes_are_read_and_changed(served: Served) -> None:
    """POST /genes/update changes the session's configuration, which /genes and /gene/{name} show."""
    reply = await served.http.post("/genes/update", json={"genes": {"recall_threshold": 0.5}})
    assert reply.json()["message"] == "genes-updated"
    assert (await served.http.get("/gene/recall_threshold")).json()["gene_value"] == 0.5
    assert (await served.http.get("/genes")).json()["genes"]["recall_threshold"] == 0.5


async def test_the_session_header_selects_and_is_echoed(served: Served) -> None:
    """X-Session-ID names the session on every operation and comes back; an unknown one is SESSION_NOT_FOUND."""
    default = {"X-Session-ID": "default"}
    await served.http.post("/observe", json={"strings": ["a"]})
    reply = await served.http.get("/stm", headers=default)
    assert (reply.headers["x-session-id"], reply.json()["length"]) == ("default", 1)
    for operation in OPERATIONS:
        if operation.by_session and operation.name != "health":
            path = operation.paths[0].replace("{name}", "persistence")
            unknown = {"X-Session-ID": "nobody"}
            reply = await served.http.request(operation.methods[0], path, json=operation.example, headers=unknown)
            assert reply.status_code == 404, operation.name
            assert reply.json()["error"]["code"] == "SESSION_NOT_FOUND"
            assert reply.headers["x-session-id"] == "nobody"


async def test_two_sessions_share_patterns_and_nothing_else(served: Served) -> None:
    """Sessions of one processor see each other's patterns and not each other's STM."""
    for session_id in ("one", "two"):
        await served.node.service.open_session(session_id, incarnation="1", overrides={})
    one, two = {"X-Session-ID": "one"}, {"X-Session-ID": "two"}
    await served.http.post("/observe", json={"strings": ["a", "b"]}, headers=one)
    assert (await served.http.get("/stm", headers=two)).json()["stm"] == []
    await served.http.post("/learn", headers=one)
    await served.http.post("/observe", json={"strings": ["a", "b"]}, headers=two)
    assert (await served.http.get("/predictions", headers=two)).json()["count"] == 1


async def test_health_needs_no_processor() -> None:
    """GET /health answers on a node that is not bound yet, with no processor."""
    async with serving_node(bound=False) as served:
        health = (await served.http.get("/health")).json()
        assert (health["status"], health["processor_id"]) == ("healthy", None)
        schemas.Health.model_validate(health)

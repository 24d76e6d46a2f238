"""Patterns corrected, deleted, listed and counted over HTTP; metrics; the node's own sessions."""

from __future__ import annotations

import asyncio

import pytest

from kato_node.wire import schemas
from tests.contract.node.serving import PROCESSOR, Served, error_of, serving_node

EMPTY: dict[str, object] = {"patterns": [], "next_cursor": None, "total": 0}


async def predicted(served: Served, *symbols: str) -> list[dict[str, object]]:
    """Return the predictions on these symbols, observed after a clear."""
    await served.http.post("/clear-stm")
    for symbol in symbols:
        (await served.http.post("/observe", json={"strings": [symbol]})).raise_for_status()
    predictions: list[dict[str, object]] = (await served.http.get("/predictions")).json()["predictions"]
    return predictions


async def test_correcting_a_pattern_changes_the_next_prediction(served: Served) -> None:
    """A PUT replaces what it gives, answers with the whole pattern, and the next prediction goes by it."""
    rare = await served.learned(["a"], ["b"], ["c"])
    often = await served.learned(["a"], ["b"], ["d"])
    await served.learned(["a"], ["b"], ["d"])
    assert [found["name"] for found in await predicted(served, "a", "b")] == [often, rare]
    body = {"frequency": 9, "emotives": [{"joy": 1}, {"joy": 0}], "metadata": {"why": ["seen", "again", "seen"]}}
    reply = await served.http.put(f"/pattern/{rare}", json=body)
    assert reply.status_code == 200
    pattern = schemas.PatternUpdated.model_validate_json(reply.content).pattern
    assert (pattern.name, pattern.frequency, pattern.metadata) == (rare, 9, {"why": ["again", "seen"]})
    assert (await served.http.get(f"/pattern/{rare}")).json()["pattern"] == pattern.model_dump()
    first = (await predicted(served, "a", "b"))[0]
    assert (first["name"], first["frequency"], first["emotives"]) == (rare, 9, {"joy": 0.5})
    again = await served.http.put(f"/pattern/{rare.removeprefix('PTRN|')}", json={"metadata": {}})
    assert again.json()["pattern"] == {**pattern.model_dump(), "metadata": {}}


async def test_deleting_a_pattern_removes_every_trace(served: Served) -> None:
    """Predictions, counts, lists, symbols and vectors are as if it had never been learned, after a restart too."""
    kept = await served.learned(["a"], ["b"], ["c"])
    before = await everything(served)
    for event in ({"strings": ["a", "new"]}, {"vectors": [[1.0, 2.0]], "emotives": {"joy": 1}}):
        (await served.http.post("/observe", json=event)).raise_for_status()
    gone = (await served.http.post("/learn")).json()["pattern_name"]
    assert await everything(served) != before
    reply = await served.http.delete(f"/pattern/{gone}")
    assert reply.json() == {"status": "deleted", "name": gone}
    assert error_of(await served.http.get(f"/pattern/{gone}"))["code"] == "PATTERN_NOT_FOUND"
    assert error_of(await served.http.delete(f"/pattern/{gone}"))["code"] == "PATTERN_NOT_FOUND"
    assert await everything(served) == before
    assert served.disk.processor(PROCESSOR).vectors == {}
    other_length = await served.http.post("/observe", json={"vectors": [[1.0, 2.0, 3.0]]})
    assert other_length.status_code == 200
    await served.http.post("/clear-stm")
    async with serving_node(disk=served.disk) as again:
        assert await everything(again) == before
        assert [found["name"] for found in await predicted(again, "a", "b")] == [kept]


async def everything(served: Served) -> list[object]:
    """Return all that is told of the memory."""
    paths = ("/patterns", "/symbols/stats", "/symbols/affinity")
    told: list[object] = [(await served.http.get(path)).json() for path in paths]
    return [*told, (await served.http.get("/status")).json()["patterns"], await predicted(served, "a", "new")]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"frequency": 0}, "frequency"),
        ({"frequency": True}, "frequency"),
        ({"frequency": 2.5}, "frequency"),
        ({"emotives": [{"joy": 1}] * 101}, "emotives"),
        ({"emotives": {"joy": 1}}, "emotives"),
        ({"metadata": {"k": [1]}}, "metadata.k.0"),
        ({"pattern_data": [["x"]]}, "pattern_data"),
        ([], "body"),
    ],
)
async def test_a_bad_correction_changes_nothing(served: Served, body: object, field: str) -> None:
    """A PUT with one bad value is refused by the field's name, and the good values beside it are not applied."""
    name = await served.learned(["a"], ["b"])
    before = (await served.http.get(f"/pattern/{name}")).json()
    good = {"metadata": {"good": ["x"]}}
    reply = await served.http.put(f"/pattern/{name}", json={**good, **body} if isinstance(body, dict) else body)
    assert reply.status_code == 422
    assert error_of(reply)["details"]["errors"][0]["field"] == field  # type: ignore[index]
    assert (await served.http.get(f"/pattern/{name}")).json() == before


async def test_an_edit_with_its_key_applies_once(served: Served) -> None:
    """The same key again gives the first reply, even if the pattern has changed; for another pattern it is refused."""
    name = await served.learned(["a"], ["b"])
    other = await served.learned(["a"], ["c"])
    put = {"url": f"/pattern/{name}", "json": {"frequency": 5}, "headers": {"Idempotency-Key": "k"}}
    first = await served.http.put(**put)  # type: ignore[arg-type]
    await served.learned(["a"], ["b"])
    assert (await served.http.put(**put)).content == first.content  # type: ignore[arg-type]
    assert (await served.http.get(f"/pattern/{name}")).json()["pattern"]["frequency"] == 6
    assert error_of(await served.http.put(**{**put, "url": f"/pattern/{other}"}))["code"] == "IDEMPOTENCY_KEY_REUSED"  # type: ignore[arg-type]
    deletion = [await served.http.delete(f"/pattern/{name}", headers={"Idempotency-Key": "d"}) for _ in range(2)]
    assert deletion[0].content == deletion[1].content
    assert deletion[1].status_code == 200


async def test_edits_and_learns_of_many_sessions_have_one_order(served: Served) -> None:
    """A PUT answers with what it left: learns that the same transaction decided before it are in its reply."""
    name = await served.learned(["a"], ["b"])
    for session in ("s1", "s2"):
        await served.http.post("/sessions", json={"session_id": session})
        for symbol in "ab":
            await served.http.post(f"/sessions/{session}/observe", json={"strings": [symbol]})
    served.disk.gate.clear()  # a first commit waits in the store, and everything else for the next transaction
    calls = [
        served.http.post("/observe", json={"strings": ["x"]}),
        served.http.post("/sessions/s1/learn"),
        served.http.post("/sessions/s2/learn"),
    ]
    running = [asyncio.ensure_future(call) for call in calls]
    await served.committing.wait()
    edit = asyncio.ensure_future(served.http.put(f"/sessions/s1/pattern/{name}", json={"metadata": {"k": ["v"]}}))
    served.disk.gate.set()
    await asyncio.gather(*running)
    shown = (await edit).json()["pattern"]
    assert shown["frequency"] in {1, 2, 3}
    final = (await served.http.get(f"/pattern/{name}")).json()["pattern"]
    assert (final["frequency"], final["metadata"]) == (3, {"k": ["v"]})


async def test_patterns_are_listed_by_name_page_by_page(served: Served) -> None:
    """Pages follow their cursors through all patterns, or through those with one symbol; a bad cursor is refused."""
    assert (await served.http.get("/patterns")).json() == EMPTY
    names = sorted([await served.learned([first], [second]) for first in "abc" for second in "xy"])
    found: list[str] = []
    query = {"limit": "4"}
    while True:
        page = schemas.Patterns.model_validate_json((await served.http.get("/patterns", params=query)).content)
        found.extend(pattern.name for pattern in page.patterns)
        assert page.total == 6
        if page.next_cursor is None:
            break
        query["cursor"] = page.next_cursor
    assert found == names
    with_a = (await served.http.get("/patterns", params={"contains": "a"})).json()
    assert (with_a["total"], len(with_a["patterns"])) == (2, 2)
    assert (await served.http.get("/patterns", params={"contains": ""})).json() == EMPTY
    for query in ({"limit": "0"}, {"limit": "1001"}, {"limit": "x"}, {"cursor": "?"}, {"cursor": "é"}):
        reply = await served.http.get("/patterns", params=query)
        assert error_of(reply)["details"]["errors"][0]["field"] == next(iter(query))  # type: ignore[index]
    assert len((await served.http.get("/patterns", params={"limit": "1000"})).json()["patterns"]) == 6


async def test_symbols_are_counted_and_felt(served: Served) -> None:
    """Statistics count repeats and learns; an affinity is the sum of the patterns' mean emotives."""
    for _ in range(2):
        await served.http.post("/observe", json={"strings": ["a", "a"], "emotives": {"joy": 1}})
        await served.learned(["b"])
    await served.learned(["b"], ["c"])
    assert (await served.http.get("/symbols/stats")).json() == {
        "symbols": {
            "a": {"frequency": 4, "pattern_member_frequency": 1},
            "b": {"frequency": 3, "pattern_member_frequency": 2},
            "c": {"frequency": 1, "pattern_member_frequency": 1},
        }
    }
    assert (await served.http.get("/symbols/affinity")).json() == {
        "affinities": {"a": {"joy": 1.0}, "b": {"joy": 1.0}, "c": {}}
    }


async def test_metrics_are_json_or_prometheus_text(served: Served) -> None:
    """JSON unless plain text or OpenMetrics is preferred; then each metric has its help, its type and one sample."""
    await served.learned(["a"], ["b"])
    for accept in (None, "*/*", "application/json", "text/plain;q=0.5, application/json"):
        reply = await served.http.get("/metrics", headers={"accept": accept} if accept else {})
        figures = schemas.Metrics.model_validate_json(reply.content)
        assert (figures.observations_processed, figures.patterns_learned, figures.stm_size) == (2, 1, 0)
    for accept in ("text/plain", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1"):
        reply = await served.http.get("/metrics", headers={"accept": accept})
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        lines = reply.text.splitlines()
        assert f'kato_observations_processed_total{{processor_id="{PROCESSOR}"}} 2' in lines
        assert "# TYPE kato_patterns gauge" in lines
        assert len(lines) % 3 == 0
        assert all(line.startswith(("# HELP kato_", "# TYPE kato_", "kato_")) for line in lines)


async def test_a_node_has_sessions_of_its_own(served: Served) -> None:
    """A session is made once, found again, listed, used by its path, and ended; its patterns stay."""
    made = await served.http.post("/sessions", json={"session_id": "s", "config": {"max_predictions": 7}})
    assert made.status_code == 201
    assert made.json()["session_config"]["max_predictions"] == 7
    found = await served.http.post("/v2/sessions", json={"session_id": "s", "config": {"max_predictions": 9}})
    assert (found.status_code, found.json()) == (200, made.json())
    generated = (await served.http.post("/sessions")).json()["session_id"]
    listed = (await served.http.get("/sessions", params={"limit": 1})).json()
    assert (listed["total"], [one["session_id"] for one in listed["sessions"]]) == (2, [min("s", generated)])
    rest = (await served.http.get("/sessions", params={"cursor": listed["next_cursor"]})).json()
    assert [one["session_id"] for one in rest["sessions"]] == [max("s", generated)]
    await served.http.post("/sessions/s/observe", json={"strings": ["a", "b"]})
    assert (await served.http.get("/v2/sessions/s")).json()["stm_length"] == 1
    assert (await served.http.get("/v2/sessions/s/stm")).json()["stm"] == [["a", "b"]]
    assert (await served.http.get("/stm")).json()["stm"] == []
    name = (await served.http.post("/sessions/s/learn")).json()["pattern_name"]
    assert (await served.http.delete("/sessions/s")).json() == {
        "status": "deleted",
        "session_id": "s",
        "processor_id": PROCESSOR,
    }
    for path in ("/sessions/s", "/sessions/s/stm", "/sessions/s/export", "/sessions/s/health"):
        assert error_of(await served.http.get(path))["code"] == "SESSION_NOT_FOUND"
    assert error_of(await served.http.delete("/sessions/s"))["code"] == "SESSION_NOT_FOUND"
    assert (await served.http.get(f"/pattern/{name}")).status_code == 200


async def test_a_gateways_session_is_not_ended_behind_its_back(served: Served) -> None:
    """A session that a gateway opened can be seen at the node, and be ended by the gateway alone."""
    await served.node.service.open_session("theirs", incarnation="1", overrides={})
    assert (await served.http.post("/sessions", json={"session_id": "theirs"})).status_code == 200
    assert error_of(await served.http.delete("/sessions/theirs"))["code"] == "CONFLICT"
    assert (await served.http.get("/sessions/theirs")).status_code == 200


async def test_a_path_and_a_header_must_mean_one_session(served: Served) -> None:
    """A request that names two sessions is refused; a bad id makes no session; an unknown field neither."""
    await served.http.post("/sessions", json={"session_id": "s"})
    reply = await served.http.get("/sessions/s/stm", headers={"X-Session-ID": "t"})
    assert error_of(reply)["code"] == "VALIDATION_ERROR"
    for body in ({"session_id": "../x"}, {"session_id": 7}, {"ttl_seconds": 5}, {"config": {"unknown": 1}}):
        assert error_of(await served.http.post("/sessions", json=body))["code"] == "VALIDATION_ERROR"
    assert (await served.http.get("/sessions")).json()["total"] == 1

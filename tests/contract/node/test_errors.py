"""One envelope for every error (api.md, section 4), whatever provoked it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from io import StringIO

import httpx
import pytest

from kato_node.settings import Settings
from kato_node.store.base import StoreUnavailable
from kato_node.wire import logs
from kato_node.wire.errors import STATUS
from tests.contract.node.serving import PROCESSOR, Served, error_of, serving_node

DEEP = b"[" * 100_000 + b"]" * 100_000
MALFORMED = {
    "empty": b"",
    "blank": b" \n",
    "cut short": b'{"strings": ["a"',
    "single quotes": b"{'strings': ['a']}",
    "trailing": b'{"strings": []} x',
    "comma": b'{"strings": ["a",]}',
    "not utf-8": b'{"strings": ["\xff"]}',
    "encoded surrogate": b'{"strings": ["\xed\xa0\x80"]}',
    "utf-16": '{"strings": ["a"]}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"strings": []}',
    "control character": b'{"strings": ["\x01"]}',
}
# what is sent to /observe -> the field that the error names
INVALID = {
    b"[]": "body",
    b'"text"': "body",
    b"null": "body",
    b"NaN": "body",
    DEEP: "body",
    b'{"strings": ' + b"[" * 200 + b"]" * 200 + b"}": "body",
    b'{"metadata": {"x": ' + b"9" * 5_000 + b"}}": "body",
    b'{"emotives": {"x": NaN}}': "emotives.x",
    b'{"emotives": {"x": -Infinity}}': "emotives.x",
    b'{"vectors": [[1, 1e999]]}': "vectors.0.1",
    b'{"vectors": [[' + b"1" * 400 + b".0]]}": "vectors.0.0",
    b'{"metadata": {"x": [{"y": Infinity}]}}': "metadata.x.0.y",
    b'{"strings": ["\\ud800"]}': "strings.0",
    b'{"strings": ["\\udfff\\ud800"]}': "strings.0",
    b'{"metadata": {"\\ud83d": 1}}': "metadata",
    b'{"\\udc00": 1}': "body",
    b'{"unique_id": "\\uDC00"}': "unique_id",
    b'{"strings": "a"}': "strings",
    b'{"strings": null}': "strings",
    b'{"strings": [1]}': "strings.0",
    b'{"strings": [true]}': "strings.0",
    b'{"vectors": [1]}': "vectors.0",
    b'{"vectors": [[]]}': "vectors.0",
    b'{"vectors": [[1], [1, 2]]}': "vectors",
    b'{"vectors": [[true]]}': "vectors.0.0",
    b'{"emotives": []}': "emotives",
    b'{"emotives": {"x": true}}': "emotives.x",
    b'{"emotives": {"x": "1"}}': "emotives.x",
    b'{"emotives": {"x": 1e101}}': "emotives.x",
    b'{"emotives": {"": 1}}': "emotives.",
    b'{"metadata": {"$x": 1}}': "metadata.$x",
    b'{"metadata": {"x": 9223372036854775808}}': "metadata.x",
    b'{"unique_id": 1}': "unique_id",
    b'{"string": ["a"]}': "string",
    b'{"strings": [], "emotive": {}}': "emotive",
}


async def assert_untouched(served: Served) -> None:
    """Nothing was applied."""
    status = (await served.http.get("/status")).json()
    assert (status["time"], status["stm_length"], status["patterns"]) == (0, 0, 0)


@pytest.mark.parametrize("path", ["/observe", "/observe-sequence", "/genes/update"])
async def test_what_is_not_json_is_malformed(served: Served, path: str) -> None:
    """A body that is not JSON in UTF-8 is 400 MALFORMED_JSON, on each operation that takes one."""
    for name, body in MALFORMED.items():
        reply = await served.http.post(path, content=body)
        assert (reply.status_code, error_of(reply)["code"]) == (400, "MALFORMED_JSON"), name
    await assert_untouched(served)


async def test_what_is_not_an_observation_names_its_field(served: Served) -> None:
    """JSON that is no observation is 422 VALIDATION_ERROR, whose details name the field, and nothing is applied."""
    for body, field in INVALID.items():
        await assert_invalid(served, "/observe", body, field)
    await assert_untouched(served)


async def assert_invalid(served: Served, path: str, body: bytes, field: str) -> None:
    """The body is a VALIDATION_ERROR that names the field."""
    reply = await served.http.post(path, content=body)
    error = error_of(reply)
    assert (reply.status_code, error["code"]) == (422, "VALIDATION_ERROR"), body[:80]
    assert field in [item["field"] for item in error["details"]["errors"]], body[:80]  # type: ignore[index]


OTHERS = [
    ("/learn", {"force": True}, "force"),
    ("/clear-stm", {"x": 1}, "x"),
    ("/clear-all", [], "body"),
    ("/predictions", {"unique_id": "u"}, "unique_id"),
    ("/genes/update", {}, "genes"),
    ("/genes/update", {"genes": []}, "genes"),
    ("/genes/update", {"genes": {"recall": 1}}, "recall"),
    ("/genes/update", {"genes": {"persistence": 5.0}}, "persistence"),
    ("/genes/update", {"genes": {"sort_symbols": 1}}, "sort_symbols"),
    ("/genes/update", {"genes": {}, "processor_id": "p"}, "processor_id"),
    ("/observe-sequence", {}, "observations"),
    ("/observe-sequence", {"observations": {}}, "observations"),
    ("/observe-sequence", {"observations": [], "learn_at_end": 1}, "learn_at_end"),
    ("/observe-sequence", {"observations": [], "learn": True}, "learn"),
    ("/observe-sequence", {"observations": [[]]}, "observations.0"),
    ("/observe-sequence", {"observations": [{}, {"string": []}]}, "observations.1.string"),
    ("/observe-sequence", {"observations": [{}] * 10_001}, "observations"),
]


async def test_other_bodies_are_as_strict(served: Served) -> None:
    """Unknown fields, wrong types and too many items are VALIDATION_ERRORs that name the field."""
    for path, body, field in OTHERS:
        await assert_invalid(served, path, json.dumps(body).encode(), field)
    await assert_untouched(served)


async def test_an_error_does_not_send_back_what_was_sent(served: Served) -> None:
    """However long the name of a bad field is, and however many there are, the error stays short."""
    for body in ({"emotives": {"$" + "x" * 1_000_000: 1}}, {"y" * 1_000_000: 1}, {"strings": [1] * 10_000}):
        reply = await served.http.post("/observe", json=body)
        assert reply.status_code == 422
        assert len(reply.content) < 20_000


async def test_json_is_read_whatever_the_content_type_says(served: Served) -> None:
    """The body is JSON whether or not a Content-Type says so; pairs of escaped surrogates are one character."""
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        reply = await served.http.post("/observe", content=b'{"strings": ["\\ud83d\\ude00"]}', headers=headers)
        assert reply.status_code == 200
    assert (await served.http.get("/stm")).json()["stm"] == [["😀"]] * 3


UNKNOWN = [
    ("GET", "/", "NOT_FOUND", 404),
    ("GET", "/nothing", "NOT_FOUND", 404),
    ("POST", "/observe/", "NOT_FOUND", 404),
    ("GET", "/pattern/", "NOT_FOUND", 404),
    ("GET", "/observe", "METHOD_NOT_ALLOWED", 405),
    ("DELETE", "/predictions", "METHOD_NOT_ALLOWED", 405),
    ("PATCH", "/docs", "METHOD_NOT_ALLOWED", 405),
    ("GET", "/pattern/" + "0" * 40, "PATTERN_NOT_FOUND", 404),
    ("GET", "/pattern/PTRN%7Cnothing", "PATTERN_NOT_FOUND", 404),
    ("GET", "/pattern/%FF%00%ED%A0%80", "PATTERN_NOT_FOUND", 404),
    ("GET", "/gene/nothing", "GENE_NOT_FOUND", 404),
    ("GET", "/ws", "NOT_FOUND", 404),
]


async def test_unknown_routes_methods_and_names(served: Served) -> None:
    """Unknown routes, wrong methods and unknown names carry the envelope too."""
    for method, path, code, status in UNKNOWN:
        reply = await served.http.request(method, path)
        assert (reply.status_code, error_of(reply)["code"]) == (status, code), path


async def test_a_wrong_method_is_told_the_right_ones(served: Served) -> None:
    """A 405 lists every method of the path in Allow."""
    assert (await served.http.delete("/predictions")).headers["allow"] == "GET, HEAD, POST"


async def test_a_body_over_the_limit_is_refused_by_its_length() -> None:
    """A body beyond the limit is 413 BODY_TOO_LARGE, announced or chunked, and the connection lives on."""
    settings = Settings(processor_id=PROCESSOR, body_bytes_max=1_000)
    async with serving_node(settings=settings) as served:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(300):
                yield b" " * 10_000

        for content in (b" " * 3_000_000, chunks()):
            reply = await served.http.post("/observe", content=content)
            error = error_of(reply)
            assert (reply.status_code, error["code"]) == (413, "BODY_TOO_LARGE")
            assert error["details"] == {"body_bytes_max": 1_000}
        assert (await served.http.post("/observe", json={"strings": ["a"]})).status_code == 200


async def test_a_body_that_stops_arriving_is_given_up() -> None:
    """A body whose rest does not come is answered with an error after a while, and nothing is applied."""
    settings = Settings(processor_id=PROCESSOR, body_silence_max_s=0.05)
    async with serving_node(settings=settings) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(b'POST /observe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"strings":')
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        assert b"MALFORMED_JSON" in await reader.readuntil(b"}}")
        writer.close()
        await writer.wait_closed()
        await assert_untouched(served)


async def test_a_caller_that_leaves_disturbs_nobody(served: Served) -> None:
    """A connection that breaks off in the middle of a body leaves no trace and no error in the log."""
    writer = (await asyncio.open_connection(*served.address))[1]
    writer.write(b'POST /observe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"strings":')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await assert_untouched(served)


async def test_a_sane_request_id_is_kept_and_another_replaced(served: Served) -> None:
    """Every reply has X-Request-ID: the caller's own if it is printable and short, else a fresh one."""
    for path in ("/stm", "/nothing", "/docs", "/openapi.json", "/health"):
        reply = await served.http.get(path, headers={"X-Request-ID": "mine-1"})
        assert reply.headers["x-request-id"] == "mine-1"
    fresh = {(await served.http.get("/stm")).headers["x-request-id"] for _ in range(2)}
    assert len(fresh) == 2
    for insane in ("x" * 129, "a b", ""):
        reply = await served.http.get("/stm", headers={"X-Request-ID": insane})
        assert reply.headers["x-request-id"] != insane


async def test_a_mistake_of_ours_is_an_internal_error_without_a_traceback(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is 500 INTERNAL_ERROR with the request id and nothing more; the log has its kind."""

    async def broken(*_: object) -> None:
        raise RuntimeError("the words of an observation")

    monkeypatch.setattr(type(served.node.reads), "stm", broken)
    lines = await logged(served.http.get("/stm", headers={"X-Request-ID": "find-me"}))
    reply = await served.http.get("/stm", headers={"X-Request-ID": "find-me"})
    error = error_of(reply)
    assert (reply.status_code, error["code"], error["details"]) == (500, "INTERNAL_ERROR", {"request_id": "find-me"})
    assert not any(word in reply.text for word in ("Traceback", "RuntimeError", "words", ".py"))
    failed = [line for line in lines if line["event"] == "request_failed"]
    assert [(line["request_id"], line["exception"]) for line in failed] == [("find-me", "RuntimeError")]
    assert "the words" not in json.dumps(lines)


async def test_the_store_out_of_reach_is_said_with_a_time_to_retry(served: Served) -> None:
    """A write that the store refuses is 503 STORAGE_UNAVAILABLE with Retry-After, its reason kept to the log."""
    served.disk.fail_next_commit(StoreUnavailable("cannot write /var/lib/secret.sqlite"))
    reply = await served.http.post("/observe", json={"strings": ["a"]})
    assert (reply.status_code, error_of(reply)["code"]) == (503, "STORAGE_UNAVAILABLE")
    assert reply.headers["retry-after"].isdecimal()
    assert "secret" not in reply.text
    await assert_untouched(served)


async def test_too_many_unanswered_calls_are_told_to_wait(served: Served) -> None:
    """With 64 mutating calls of a session unanswered, one more is 429 RATE_LIMITED with Retry-After."""
    await served.http.post("/learn")
    served.disk.gate.clear()
    async with httpx.AsyncClient(base_url=served.http.base_url, limits=httpx.Limits(max_connections=80)) as client:
        calls = [asyncio.create_task(client.post("/observe", json={"strings": ["a"]})) for _ in range(65)]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        reply = done.pop().result()
        assert (reply.status_code, error_of(reply)["code"]) == (429, "RATE_LIMITED")
        assert reply.headers["retry-after"].isdecimal()
        served.disk.gate.set()
        assert {reply.status_code for reply in await asyncio.gather(*waiting)} == {200}


async def test_another_owner_of_the_processor_is_told(served: Served) -> None:
    """Once a newer owner has bound the processor, a write is 409 PROCESSOR_FENCED and the node stops."""
    async with serving_node(disk=served.disk):
        reply = await served.http.post("/observe", json={"strings": ["a"]})
        assert (reply.status_code, error_of(reply)["code"]) == (409, "PROCESSOR_FENCED")
        await served.node.stopped.wait()
        assert served.node.stop_reason == "fenced"


async def test_log_lines_are_json_and_never_tell_what_was_observed(served: Served) -> None:
    """Each line is a JSON object with ts, level, event and whose request it was; observations are not in it."""
    body = {"strings": ["sekret"], "metadata": {"sekret": "sekret"}, "emotives": {"sekret": 1}}
    headers = {"X-Request-ID": "rq-1", "X-Session-ID": "default"}
    lines = await logged(served.http.post("/observe", json=body, headers=headers))
    [line] = [line for line in lines if line["event"] == "request"]
    assert {"ts", "level", "event", "ms"} <= line.keys()
    assert (line["request_id"], line["session_id"], line["processor_id"]) == ("rq-1", "default", PROCESSOR)
    assert (line["epoch"], line["method"], line["path"], line["status"]) == (1, "POST", "/observe", 200)
    assert "sekret" not in json.dumps(lines)


def test_every_code_has_the_status_of_the_page() -> None:
    """The table from codes to statuses has each of api.md's codes once."""
    assert STATUS["VALIDATION_ERROR"] == 422
    assert STATUS["WRONG_NODE"] == 421
    assert set(STATUS.values()) == {400, 401, 403, 404, 405, 409, 410, 413, 421, 422, 429, 500, 502, 503, 504}


async def logged(request: object) -> list[dict[str, object]]:
    """Return the log lines of our own packages that are written while the request is served."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    logger = logging.getLogger("kato_node")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        await request  # type: ignore[misc]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return [json.loads(line) for line in stream.getvalue().splitlines()]

"""Export and import over HTTP."""

from __future__ import annotations

import json

import pytest

from kato_node.api import streams
from kato_node.domain.learn import pattern_name
from kato_node.settings import Settings
from kato_node.store.base import CommitUnknown, StoreUnavailable
from kato_node.store.memory import MemoryDisk
from tests.contract.node.serving import PROCESSOR, Served, error_of, serving_node

SETTINGS = Settings(processor_id=PROCESSOR, body_bytes_max=2_000, line_bytes_max=1_500)


async def taught(served: Served) -> None:
    """Teach the node patterns with vectors, emotives and metadata, some of them repeatedly."""
    observations: list[dict[str, object]] = [
        {"strings": ["a", "é", ""], "emotives": {"joy": 0.1}, "metadata": {"tag": [1, None]}},
        {"vectors": [[0.1, 0.2], [0.3, 1e100]], "strings": ["b"], "emotives": {"joy": 0.7}},
        {"strings": ["c\n"], "emotives": {"fear": -1e100}},
        {"vectors": [[0.5, -0.25]]},
    ]
    for count in (2, 3, 4, 2):
        sequence = {"observations": observations[:count], "learn_at_end": True}
        (await served.http.post("/observe-sequence", json=sequence)).raise_for_status()
    await served.http.post("/genes/update", json={"genes": {"recall_threshold": 0.0}})


async def answers(served: Served) -> list[bytes]:
    """Return, byte for byte, what the node answers of its memory, predictions included."""
    await served.http.post("/genes/update", json={"genes": {"recall_threshold": 0.0, "vector_neighbors": 2}})
    await served.http.post("/clear-stm")
    await served.http.post("/observe", json={"strings": ["a", "b"], "vectors": [[0.4, 0.4]]})
    paths = ("/predictions", "/patterns", "/symbols/stats", "/symbols/affinity")
    return [(await served.http.get(path)).content for path in paths]


async def exported(served: Served) -> list[bytes]:
    """Return the lines of the node's export."""
    reply = await served.http.get("/export")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/x-ndjson")
    assert "content-length" not in reply.headers
    return reply.content.splitlines()


def lines(count: int, *, first: int = 0) -> list[bytes]:
    """Return an export of so many patterns, as another program would write it."""
    made = []
    for number in range(first, first + count):
        events = (("a",), (f"b{number}",))
        made.append({"name": pattern_name(events), "pattern_data": events, "frequency": 2})
    header = {"format": "kato-patterns", "version": 1, "patterns": count, "note": "made by hand"}
    return [json.dumps(line).encode() for line in (header, *made)]


async def sent(served: Served, body: list[bytes]) -> dict[str, object]:
    """Import the lines; return what the node did."""
    reply = await served.http.post("/import", content=b"\n".join(body))
    assert reply.status_code == 200, reply.text
    done: dict[str, object] = reply.json()
    return done


async def test_an_export_imported_elsewhere_is_the_same_processor_bit_for_bit(served: Served) -> None:
    """Every answer of the memory, predictions included, is the same bytes on a new node that imported the export."""
    await taught(served)
    body = await exported(served)
    header = json.loads(body[0])
    assert (header["format"], header["processor_id"], header["patterns"], header["dimension"]) == (
        "kato-patterns",
        PROCESSOR,
        3,
        2,
    )
    assert len(body) == 4
    before = [reply.replace(PROCESSOR.encode(), b"p") for reply in await answers(served)]
    disk = MemoryDisk()
    async with serving_node(disk=disk) as other:
        assert await sent(other, body) == {
            "status": "okay",
            "imported": 3,
            "skipped": 0,
            "processor_id": PROCESSOR,
            "session_id": "default",
        }
        assert [reply.replace(PROCESSOR.encode(), b"p") for reply in await answers(other)] == before
        assert (await exported(other))[1:] == body[1:]
    async with serving_node(disk=disk) as restarted:
        assert [reply.replace(PROCESSOR.encode(), b"p") for reply in await answers(restarted)] == before


async def test_an_import_sent_again_applies_nothing_twice(served: Served) -> None:
    """The same lines again are skipped, also after a restart; another header is another import, and adds up."""
    body = lines(3)
    assert (await sent(served, body))["imported"] == 3
    before = (await served.http.get("/patterns")).json()
    assert await sent(served, body) == {**await sent(served, body), "imported": 0, "skipped": 3}
    assert (await served.http.get("/patterns")).json() == before
    async with serving_node(disk=served.disk) as again:
        assert (await sent(again, [*body, b"", b" "]))["skipped"] == 3
        other = [body[0].replace(b"by hand", b"once more"), *body[1:]]
        assert (await sent(again, other))["imported"] == 3
        patterns = (await again.http.get("/patterns")).json()["patterns"]
        assert [pattern["frequency"] for pattern in patterns] == [4, 4, 4]


async def test_a_deleted_pattern_comes_back_with_its_import(served: Served) -> None:
    """Deleting removes the memory of imports too, so that the same file restores it; so does clear-all."""
    body = lines(2)
    await sent(served, body)
    name = json.loads(body[1])["name"]
    await served.http.delete(f"/pattern/{name}")
    done = await sent(served, body)
    assert (done["imported"], done["skipped"]) == (1, 1)
    await served.http.post("/clear-all")
    assert (await sent(served, body))["imported"] == 2


@pytest.mark.parametrize(
    ("error", "written"),
    [(StoreUnavailable("gone"), False), (CommitUnknown("lost"), False), (CommitUnknown("lost"), True)],
)
async def test_an_import_broken_off_and_sent_again_applies_once(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: StoreUnavailable | CommitUnknown, *, written: bool
) -> None:
    """Whatever becomes of a batch's commit, sending everything again leaves each pattern imported exactly once."""
    monkeypatch.setattr(streams, "BATCH_LINES", 4)
    body = lines(10)
    await sent(served, lines(4, first=100))
    served.disk.fail_next_commit(error, written=written)
    reply = await served.http.post("/import", content=b"\n".join(body))
    assert error_of(reply)["code"] == "STORAGE_UNAVAILABLE"
    assert error_of(reply)["details"]["imported"] == 0  # type: ignore[index]
    async with serving_node(disk=served.disk) as again:
        done = await sent(again, body)
        assert (done["imported"], done["skipped"]) == ((6, 4) if written else (10, 0))
        patterns = (await again.http.get("/patterns")).json()["patterns"]
        assert [pattern["frequency"] for pattern in patterns] == [2] * 14


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"{", "MALFORMED_JSON"),
        (b'{"name": "x"}', "VALIDATION_ERROR"),
        (b"[]", "VALIDATION_ERROR"),
        (b'{"frequency": NaN}', "VALIDATION_ERROR"),
        (b'{"name": "\\ud800"}', "VALIDATION_ERROR"),
        (b"\xff", "MALFORMED_JSON"),
        (b" " * 1_501, "BODY_TOO_LARGE"),
    ],
)
async def test_a_bad_line_stops_the_import_behind_the_one_before(bad: bytes, code: str) -> None:
    """The error names the line and says how many came in; corrected and sent again, the rest does, once."""
    async with serving_node(settings=SETTINGS) as served:
        body = lines(5)
        reply = await served.http.post("/import", content=b"\n".join([*body[:4], bad, *body[4:]]))
        error = error_of(reply)
        assert error["code"] == code
        details = error["details"]
        assert isinstance(details, dict)
        assert (details["line"], details["imported"], details["skipped"]) == (5, 3, 0)
        assert (await served.http.get("/patterns")).json()["total"] == 3
        done = await sent(served, body)
        assert (done["imported"], done["skipped"]) == (2, 3)


async def test_what_the_memory_cannot_take_stops_the_import_at_its_line(served: Served) -> None:
    """A vector of another length than the processor's is found when it is merged, and everything before it is kept."""
    await taught(served)
    vector = (await exported(served))[1:]
    foreign = next(line for line in vector if b'"vectors":[[' in line)
    body = lines(3)
    async with serving_node() as other:
        await other.http.post("/observe", json={"vectors": [[1.0, 2.0, 3.0]], "strings": ["x"]})
        await other.http.post("/learn")
        reply = await other.http.post("/import", content=b"\n".join([*body[:3], foreign, body[3]]))
        error = error_of(reply)
        assert error["code"] == "VECTOR_DIMENSION_MISMATCH"
        assert error["details"] == {"expected": 3, "actual": 2, "line": 4, "imported": 2, "skipped": 0}
        assert (await other.http.get("/patterns")).json()["total"] == 3


async def test_a_part_of_an_export_is_imported_and_told(served: Served) -> None:
    """A file that ends early is an error that says so, after what came is imported; nothing at all is one too."""
    body = lines(4)
    error = error_of(await served.http.post("/import", content=b"\n".join(body[:3])))
    assert error["code"] == "VALIDATION_ERROR"
    assert error["details"]["imported"] == 2  # type: ignore[index]
    assert (await sent(served, body))["imported"] == 2
    for empty in (b"", b"\n \n"):
        assert error_of(await served.http.post("/import", content=empty))["code"] == "VALIDATION_ERROR"
    assert error_of(await served.http.post("/import", content=b"\n".join(body[1:])))["code"] == "VALIDATION_ERROR"


async def test_an_import_may_be_longer_than_any_other_body() -> None:
    """The limit of bodies does not concern an import, whose lines have one of their own; every other call keeps it."""
    async with serving_node(settings=SETTINGS) as served:
        body = lines(40)
        assert len(b"\n".join(body)) > SETTINGS.body_bytes_max
        assert (await sent(served, body))["imported"] == 40
        assert (await served.http.post("/sessions/default/import", content=b"\n".join(body))).json()["skipped"] == 40
        padded = [body[0], body[1] + b" " * (SETTINGS.line_bytes_max - len(body[1])), *body[2:]]
        assert (await sent(served, padded))["skipped"] == 40
        refused = await served.http.post("/observe", json={"strings": ["x" * SETTINGS.body_bytes_max]})
        assert error_of(refused)["code"] == "BODY_TOO_LARGE"


async def test_an_export_is_as_of_one_moment(served: Served) -> None:
    """Patterns learned and deleted while an export is read are not in it, or still are."""
    await sent(served, lines(3_000))
    expected = (await exported(served))[1:]
    async with served.http.stream("GET", "/export") as reply:
        chunks = reply.aiter_bytes()
        first = await anext(chunks)
        await served.learned(["x"], ["y"])
        await served.http.delete(f"/pattern/{json.loads(expected[-1])['name']}")
        rest = [chunk async for chunk in chunks]
    assert b"".join([first, *rest]).splitlines()[1:] == expected


async def test_an_export_is_never_an_old_copy(served: Served) -> None:
    """With the store out of reach there is no export: what is in memory may be behind it."""
    served.disk.fail_next_commit(CommitUnknown("lost"))
    await served.http.post("/observe", json={"strings": ["a"]})
    served.disk.unavailable = True
    assert error_of(await served.http.get("/export"))["code"] == "STORAGE_UNAVAILABLE"
    served.disk.unavailable = False

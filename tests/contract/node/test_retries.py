"""A repeated call with the same key applies once (api.md, section 1, Retries)."""

from __future__ import annotations

import pytest

from tests.contract.node.serving import Served, error_of, say

MUTATING = [
    ("/observe", {"strings": ["a", "b"]}),
    ("/observe-sequence", {"observations": [{"strings": ["a"]}, {"strings": ["b"]}]}),
    ("/learn", None),
    ("/clear-stm", None),
    ("/clear-all", None),
    ("/genes/update", {"genes": {"persistence": 7}}),
]


@pytest.mark.parametrize(("path", "body"), MUTATING)
async def test_a_repeated_call_gets_the_first_reply(served: Served, path: str, body: object) -> None:
    """The same key again gives the same reply and changes nothing."""
    await served.http.post("/observe", json={"strings": ["x", "y"]})
    key = {"Idempotency-Key": "key-1"}
    first = await served.http.post(path, json=body, headers=key)
    stm = (await served.http.get("/stm")).json()
    again = await served.http.post(path, json=body, headers=key)
    assert (first.status_code, again.json()) == (200, first.json())
    assert (await served.http.get("/stm")).json() == stm


async def test_the_key_stands_for_the_values_not_for_the_spelling(served: Served) -> None:
    """The same JSON value in another spelling is the same call."""
    key = {"Idempotency-Key": "key-1"}
    first = await served.http.post("/observe", content=b'{"strings":["a"],"emotives":{}}', headers=key)
    again = await served.http.post("/observe", content=b'{ "emotives": {}, "strings": ["\\u0061"] }', headers=key)
    assert again.json() == first.json()
    assert (await served.http.get("/stm")).json()["length"] == 1


async def test_a_key_with_another_call_is_refused(served: Served) -> None:
    """The same key with another body, or another operation, is 422 IDEMPOTENCY_KEY_REUSED."""
    key = {"Idempotency-Key": "key-1"}
    await served.http.post("/observe", json={"strings": ["a"]}, headers=key)
    for path, body in (("/observe", {"strings": ["b"]}), ("/learn", None)):
        reply = await served.http.post(path, json=body, headers=key)
        assert (reply.status_code, error_of(reply)["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (await served.http.get("/stm")).json()["stm"] == [["a"]]


@pytest.mark.parametrize("key", ["", "k" * 256, "schlüssel"])
async def test_a_key_must_be_printable_and_short(served: Served, key: str) -> None:
    """A key that is empty, over 255 characters or not ASCII is a VALIDATION_ERROR."""
    reply = await served.http.post("/learn", headers=[(b"idempotency-key", key.encode("latin-1"))])
    assert (reply.status_code, error_of(reply)["code"]) == (422, "VALIDATION_ERROR")


async def test_a_messages_id_is_its_key(served: Served) -> None:
    """A WebSocket message repeated with its id, through another socket or as HTTP, applies once."""
    payload = {"strings": ["a"]}
    async with served.socket() as socket:
        first = await say(socket, "observe", payload, id="m-1")
    async with served.socket() as socket:
        assert await say(socket, "observe", payload, id="m-1") == first
    reply = await served.http.post("/observe", json=payload, headers={"Idempotency-Key": "m-1"})
    assert reply.json() == first["data"]
    assert (await served.http.get("/stm")).json()["length"] == 1


async def test_a_key_is_one_operations(served: Served) -> None:
    """A key that came with one operation is 422 with another, though their bodies are the same."""
    for path, status in (("/learn", 200), ("/clear-stm", 422), ("/learn", 200)):
        reply = await served.http.post(path, json={}, headers={"Idempotency-Key": "k"})
        assert reply.status_code == status


async def test_a_key_is_one_paths(served: Served) -> None:
    """A key that came with one pattern's path is 422 with another's, though their bodies are the same."""
    names = [await served.learned(["a"], ["b"]), await served.learned(["c"], ["d"])]
    for name, status in zip(names, (200, 422), strict=True):
        reply = await served.http.put(f"/pattern/{name}", json={"frequency": 7}, headers={"Idempotency-Key": "k"})
        assert reply.status_code == status
    assert (await served.http.get(f"/pattern/{names[1]}")).json()["pattern"]["frequency"] == 1

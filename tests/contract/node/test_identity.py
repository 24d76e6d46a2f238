"""A request says whom it means, and a node answers for nobody else (architecture.md, decision 6)."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.contract.node.serving import PROCESSOR, SECRET, Served, drained_by, error_of, hear, say, serving_node


def meant(processor_id: str = PROCESSOR, epoch: str = "1") -> dict[str, str]:
    """Return the headers that say whom a request means."""
    return {"X-Kato-Processor": processor_id, "X-Kato-Epoch": epoch}


async def test_the_node_that_is_meant_answers(served: Served) -> None:
    """With its own processor and epoch, or with neither, a node serves."""
    assert (await served.http.get("/stm", headers=meant())).status_code == 200
    assert (await served.http.get("/stm")).status_code == 200


OTHERS = [
    meant("processor-2"),
    meant("PROCESSOR-1"),
    meant(""),
    meant(epoch="2"),
    meant(epoch="01"),
    meant(epoch=""),
    {"X-Kato-Processor": "processor-2"},
    {"X-Kato-Epoch": "2"},
]


async def test_another_node_than_the_one_that_is_meant_refuses(served: Served) -> None:
    """Any other processor or epoch is 421 WRONG_NODE, on every path, WebSockets included."""
    for headers in OTHERS:
        await assert_refused(served, headers)


async def assert_refused(served: Served, headers: dict[str, str]) -> None:
    """Everything is 421 to a request with these headers."""
    for method, path in (("POST", "/observe"), ("GET", "/stm"), ("GET", "/health"), ("GET", "/nothing")):
        reply = await served.http.request(method, path, headers=headers)
        assert (reply.status_code, error_of(reply)["code"]) == (421, "WRONG_NODE")
    with pytest.raises(InvalidStatus) as refused:
        await served.socket(additional_headers=headers)
    assert refused.value.response.status_code == 421
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == "WRONG_NODE"


async def opened(served: Served, incarnation: str) -> None:
    """Open session s."""
    session = {"session_id": "s", "incarnation": incarnation}
    reply = await served.http.post("/control/sessions", json=session, headers={"X-Kato-Secret": SECRET})
    reply.raise_for_status()


async def closed(served: Served, incarnation: str) -> None:
    """Close session s."""
    path = f"/control/sessions/s?incarnation={incarnation}"
    (await served.http.delete(path, headers={"X-Kato-Secret": SECRET})).raise_for_status()


def of_session(incarnation: str) -> dict[str, str]:
    """Return the headers that say which session s a request means."""
    return {**meant(), "X-Session-ID": "s", "X-Kato-Incarnation": incarnation}


async def test_a_request_for_another_incarnation_of_its_session_is_refused(served: Served) -> None:
    """What means a session that has ended, or the next that is not open yet, is 421 and changes nothing."""
    await opened(served, "i-2")
    for incarnation in ("i-1", "i-3", ""):
        for method, path in (("POST", "/observe"), ("GET", "/stm"), ("POST", "/learn"), ("POST", "/import")):
            reply = await served.http.request(method, path, json={}, headers=of_session(incarnation))
            assert (reply.status_code, error_of(reply)["code"]) == (421, "WRONG_NODE")
        async with served.socket(additional_headers=of_session(incarnation)) as socket:
            await socket.send(json.dumps({"type": "observe", "payload": {"strings": ["a"]}}))
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1012
    reply = await served.http.get("/stm", headers=of_session("i-2"))
    assert (reply.status_code, reply.json()["stm"]) == (200, [])


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("replaced", [True, False])
async def test_a_socket_ends_with_its_session(served: Served, named: bool, replaced: bool) -> None:
    """A socket neither reads, changes nor hears of the session that gets its session's id: it is closed with 1012."""
    await opened(served, "i-1")
    headers = of_session("i-1") if named else {"X-Session-ID": "s"}
    async with served.socket(additional_headers=headers) as socket:
        await say(socket, "subscribe")
        await say(socket, "observe", {"strings": ["old"]})
        if not replaced:
            await closed(served, "i-1")
        await opened(served, "i-2")
        new = {"X-Session-ID": "s"}
        await served.http.post("/observe", json={"strings": ["a", "b"]}, headers=new)
        await served.http.post("/learn", headers=new)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1012


async def test_messages_that_wait_for_the_end_of_their_session_change_nothing(served: Served) -> None:
    """Messages sent before their session was replaced, and served afterwards, are not the next one's."""
    await opened(served, "i-1")
    async with served.socket(additional_headers={"X-Session-ID": "s"}) as socket:
        await say(socket, "observe", {"strings": ["old"]})
        served.disk.gate.clear()
        served.committing.clear()
        replacing = asyncio.create_task(opened(served, "i-2"))
        await served.committing.wait()
        for number in range(20):
            await socket.send(json.dumps({"type": "observe", "payload": {"strings": ["late"]}, "id": number}))
        served.disk.gate.set()
        await replacing
        answers: list[str] = []
        with suppress(ConnectionClosed):
            while True:
                answers.append(str((await hear(socket))["type"]))
        assert set(answers) <= {"error"}
        assert socket.close_code == 1012
    assert (await served.http.get("/stm", headers={"X-Session-ID": "s"})).json()["stm"] == []


async def test_the_refusal_does_not_wait_for_the_body(served: Served) -> None:
    """421 comes before a byte of the body has been sent."""
    reader, writer = await asyncio.open_connection(*served.address)
    head = [
        "POST /observe HTTP/1.1",
        "Host: localhost",
        "X-Kato-Epoch: 7",
        "Content-Length: 1000000",
        "Expect: 100-continue",
    ]
    writer.write(("\r\n".join(head) + "\r\n\r\n").encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 421 ")
    writer.close()
    await writer.wait_closed()


async def test_an_unbound_node_answers_for_nobody() -> None:
    """An unbound node refuses operations, with or without the headers, and is healthy all the same."""
    async with serving_node(bound=False) as served:
        for headers in ({}, meant()):
            reply = await served.http.post("/observe", json={"strings": ["a"]}, headers=headers)
            assert (reply.status_code, error_of(reply)["code"]) == (421, "WRONG_NODE")
        assert (await served.http.get("/health")).status_code == 200


async def test_a_draining_node_sends_everybody_away_and_finishes_what_it_has() -> None:
    """While draining: 421 to those who name it, 503 with Retry-After and Connection: close to the others, and the
    call in flight is answered.
    """
    async with serving_node() as served:
        await served.http.post("/learn")
        served.committing.clear()
        served.disk.gate.clear()
        in_flight = asyncio.create_task(served.http.post("/observe", json={"strings": ["a"]}))
        await served.committing.wait()
        draining = await drained_by(served)
        reply = await served.http.get("/stm", headers=meant())
        assert (reply.status_code, error_of(reply)["code"]) == (421, "WRONG_NODE")
        for path in ("/stm", "/health", "/nothing"):
            reply = await served.http.get(path)
            assert (reply.status_code, reply.headers["connection"]) == (503, "close")
            assert reply.headers["retry-after"].isdecimal()
            error_of(reply)
        served.disk.gate.set()
        assert (await in_flight).status_code == 200
        await draining

"""The operations over a WebSocket: the same as over HTTP, in order, and errors leave the socket open."""

from __future__ import annotations

import json

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kato_node.api import ws
from kato_node.settings import Settings
from kato_node.wire import schemas
from kato_node.wire.operations import MESSAGES
from tests.contract.node.serving import PROCESSOR, Served, drained_by, hear, say, serving_node

NAME_AB = "PTRN|76d7efca2e96cb5eeddf4e06ac96a0f424630135"


async def test_a_conversation(served: Served) -> None:
    """Observe, learn, predict, read and clear over one socket, each with its reply's type and the message's id."""
    async with served.socket() as socket:
        observed = await say(socket, "observe", {"strings": ["a"]}, id="1")
        assert (observed["type"], observed["id"]) == ("observation_result", "1")
        await say(socket, "observe", {"strings": ["b"]})
        learned = await say(socket, "learn")
        assert learned["type"] == "learn_result"
        assert learned["data"]["pattern_name"] == NAME_AB  # type: ignore[index]
        sequence = {"observations": [{"strings": ["a"], "unique_id": "u"}, {"strings": ["b"]}]}
        assert (await say(socket, "observe_sequence", sequence))["type"] == "sequence_result"
        assert (await say(socket, "get_stm", id=7))["data"]["stm"] == [["a"], ["b"]]  # type: ignore[index]
        predicted = await say(socket, "get_predictions")
        assert (predicted["type"], predicted["data"]["count"]) == ("predictions", 1)  # type: ignore[index]
        then = await say(socket, "get_predictions", {"unique_id": "u"})
        assert then["data"]["count"] == 0  # type: ignore[index]
        assert (await say(socket, "clear_stm"))["data"]["message"] == "stm-cleared"  # type: ignore[index]
        assert (await say(socket, "clear_all"))["data"]["message"] == "all-cleared"  # type: ignore[index]
        assert await say(socket, "ping", id="p") == {"type": "pong", "data": {}, "id": "p"}


@pytest.mark.parametrize("kind", MESSAGES)
async def test_each_reply_is_the_operations_own(served: Served, kind: str) -> None:
    """Each message's data is the body that the same operation answers over HTTP, as OpenAPI describes it."""
    async with served.socket() as socket:
        answer = await say(socket, kind, MESSAGES[kind].operation.example)
        assert answer["type"] == MESSAGES[kind].reply
        MESSAGES[kind].operation.reply.model_validate_json(json.dumps(answer["data"]))


async def test_messages_are_answered_in_order(served: Served) -> None:
    """Messages sent at once are applied and answered in the order in which they were sent."""
    async with served.socket() as socket:
        for number in range(50):
            await socket.send(json.dumps({"type": "observe", "payload": {"strings": [str(number)]}, "id": number}))
        answers = [await hear(socket) for _ in range(50)]
    assert [answer["id"] for answer in answers] == list(range(50))
    assert (await served.http.get("/stm")).json()["stm"] == [[str(number)] for number in range(50)]


BAD = {
    "{": "MALFORMED_JSON",
    "": "MALFORMED_JSON",
    "[]": "VALIDATION_ERROR",
    "1": "VALIDATION_ERROR",
    "{}": "VALIDATION_ERROR",
    '{"type": "unknown"}': "VALIDATION_ERROR",
    '{"type": ["observe"]}': "VALIDATION_ERROR",
    '{"type": "observe", "payload": []}': "VALIDATION_ERROR",
    '{"type": "observe", "payload": {"strings": 1}}': "VALIDATION_ERROR",
    '{"type": "observe", "payload": {"string": []}}': "VALIDATION_ERROR",
    '{"type": "observe", "payload": {"emotives": {"x": NaN}}}': "VALIDATION_ERROR",
    '{"type": "observe", "payload": {"strings": ["\\ud800"]}}': "VALIDATION_ERROR",
    '{"type": "observe", "body": {}}': "VALIDATION_ERROR",
    '{"type": "learn", "id": {}}': "VALIDATION_ERROR",
    '{"type": "learn", "id": true}': "VALIDATION_ERROR",
    '{"type": "learn", "id": ""}': "VALIDATION_ERROR",
    '{"type": "learn", "payload": {"x": 1}}': "VALIDATION_ERROR",
    '{"type": "get_predictions", "payload": {"unique_id": 1}}': "VALIDATION_ERROR",
    '{"type": "observe", "payload": {"metadata": {"x": ' + "[" * 100_000 + "]" * 100_000 + "}}}": "VALIDATION_ERROR",
}


async def test_an_error_is_an_answer_and_the_socket_stays_open(served: Served) -> None:
    """Whatever is wrong with a message, it is answered with an error of code, message and details, and the next one
    is served.
    """
    async with served.socket() as socket:
        for text, code in BAD.items():
            await socket.send(text)
            answer = await hear(socket)
            assert answer["type"] == "error", text
            assert answer["data"].keys() == {"code", "message", "details"}  # type: ignore[attr-defined]
            assert answer["data"]["code"] == code, text  # type: ignore[index]
        await socket.send(b"\xff")
        assert (await hear(socket))["data"]["code"] == "MALFORMED_JSON"  # type: ignore[index]
        failed = await say(socket, "observe", {"strings": 1}, id="mine")
        assert failed["id"] == "mine"
        assert (await say(socket, "get_stm"))["data"]["length"] == 0  # type: ignore[index]


async def test_a_message_over_the_limit_is_an_error(served: Served) -> None:
    """A message of more than 1 MiB is BODY_TOO_LARGE, and the socket stays open; one beyond all bounds closes it."""
    async with served.socket() as socket:
        answer = await say(socket, "observe", {"strings": ["x" * 2**20]})
        assert answer["data"]["code"] == "BODY_TOO_LARGE"  # type: ignore[index]
        assert (await say(socket, "ping"))["type"] == "pong"
        with pytest.raises(ConnectionClosed) as closed:
            await say(socket, "observe", {"strings": ["x" * 2**25]})
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_the_session_is_chosen_by_query_or_header(served: Served) -> None:
    """?session_id= selects the session, a header wins over it, and an unknown session is an error for each message."""
    for session_id in ("one", "two"):
        await served.node.service.open_session(session_id, incarnation="1", overrides={})
    async with served.socket("?session_id=one") as socket:
        assert (await say(socket, "get_stm"))["data"]["session_id"] == "one"  # type: ignore[index]
    async with served.socket("?session_id=one", additional_headers={"X-Session-ID": "two"}) as socket:
        assert (await say(socket, "get_stm"))["data"]["session_id"] == "two"  # type: ignore[index]
    async with served.socket("?session_id=nobody") as socket:
        for kind in ("get_stm", "observe", "subscribe"):
            assert (await say(socket, kind))["data"]["code"] == "SESSION_NOT_FOUND"  # type: ignore[index]
        assert (await say(socket, "ping"))["type"] == "pong"


async def test_events_tell_each_pattern_that_the_session_learns(served: Served) -> None:
    """After subscribe, each pattern that the session learns, from wherever, comes as an event; others' do not."""
    await served.node.service.open_session("other", incarnation="1", overrides={})
    async with served.socket() as socket:
        assert (await say(socket, "subscribe", id="s"))["type"] == "event"
        assert (await say(socket, "subscribe"))["type"] == "event"
        other = {"X-Session-ID": "other"}
        await served.http.post("/observe", json={"strings": ["p", "q"]}, headers=other)
        await served.http.post("/learn", headers=other)
        name = await served.learned(["a"], ["b"])
        event = await hear(socket)
        assert event == {
            "type": "event",
            "data": {
                "event": "pattern_learned",
                "pattern_name": name,
                "session_id": "default",
                "processor_id": PROCESSOR,
            },
        }
        await socket.send(json.dumps({"type": "observe", "payload": {"strings": ["c", "d"]}}))
        await socket.send(json.dumps({"type": "learn"}))
        kinds = [str((await hear(socket))["type"]) for _ in range(3)]
        assert sorted(kinds) == ["event", "learn_result", "observation_result"]


async def test_a_subscriber_that_does_not_keep_up_is_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more unsent events than a socket may have, it is closed 1013; what was asked is applied all the same."""
    monkeypatch.setattr(ws, "_EVENTS_MAX", 2)
    body = {"observations": [{"strings": ["a", str(number)]} for number in range(5)], "learn_after_each": True}
    async with served.socket() as socket:
        await say(socket, "subscribe")
        reply = await served.http.post("/observe-sequence", json=body)
        assert len(reply.json()["auto_learned_patterns"]) == 5
        with pytest.raises(ConnectionClosed) as closed:
            await hear_on(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013


async def hear_on(socket: ClientConnection) -> None:
    """Read until the socket is closed."""
    while True:
        await hear(socket)


async def test_a_socket_of_a_fenced_node_is_closed(served: Served) -> None:
    """A message that a newer owner of the processor prevents is not answered: its socket closes 1012, for the client
    to repeat it elsewhere.
    """
    async with served.socket() as socket, serving_node(disk=served.disk):
        with pytest.raises(ConnectionClosed) as closed:
            await say(socket, "observe", {"strings": ["a"]}, id="m-1")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


async def test_an_unknown_socket_path_has_the_envelope(served: Served) -> None:
    """A handshake on an unknown path is refused with 404 and the envelope."""
    host, port = served.address
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://{host}:{port}/nothing")
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == "NOT_FOUND"


async def test_a_draining_node_closes_sockets_after_their_answers() -> None:
    """On drain a message in flight is answered, then its socket closes 1012; an idle one closes too."""
    async with serving_node() as served:
        await served.http.post("/learn")
        async with served.socket() as busy, served.socket() as idle:
            assert (await say(idle, "ping"))["type"] == "pong"
            served.committing.clear()
            served.disk.gate.clear()
            await busy.send(json.dumps({"type": "observe", "payload": {"strings": ["a"]}}))
            await idle.send(json.dumps({"type": "ping"}))
            assert (await hear(idle))["type"] == "pong"
            await served.committing.wait()
            draining = await drained_by(served)
            served.disk.gate.set()
            assert (await hear(busy))["type"] == "observation_result"
            await draining
            for socket in (busy, idle):
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012


async def test_pings_do_not_keep_a_node_awake() -> None:
    """An open socket that only pings does not count as activity: the idle node stops, and closes it 1012."""
    settings = Settings(processor_id=PROCESSOR)
    async with serving_node(settings=settings, idle_timeout_s=0.2) as served, served.socket() as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await ping_on(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert served.node.stop_reason == "idle"


async def ping_on(socket: ClientConnection) -> None:
    """Ping until the socket is closed."""
    while True:
        await say(socket, "ping")


def test_messages_are_the_pages() -> None:
    """The messages and the types of their replies are those of api.md."""
    assert {kind: message.reply for kind, message in MESSAGES.items()} == {
        "observe": "observation_result",
        "observe_sequence": "sequence_result",
        "get_stm": "stm",
        "get_predictions": "predictions",
        "learn": "learn_result",
        "clear_stm": "status",
        "clear_all": "status",
    }
    assert MESSAGES["observe"].operation.request is schemas.Observation

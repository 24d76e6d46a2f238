"""Whatever is sent over a WebSocket, to either service: an answer in the common form, and the socket stays open."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.sync.client import ClientConnection

from kato_node.wire import schemas
from kato_node.wire.errors import STATUS
from kato_node.wire.operations import MESSAGES
from tests.contract.published.calls import state
from tests.contract.published.services import Service

MESSAGE_BYTES_MAX = 2**20
READING = ["get_stm", "get_predictions", "ping"]
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(["$", ".", "\0", "", "x" * 300])
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(10**18, 10**400) | st.floats() | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
KINDS = st.sampled_from([*MESSAGES, "ping", "subscribe"])
FIELDS = st.sampled_from([*schemas.Observation.model_fields, *schemas.Sequence.model_fields, "unknown"])
FRAMES = st.fixed_dictionaries(
    {"type": KINDS | VALUES},
    optional={"payload": st.dictionaries(FIELDS, VALUES, max_size=3) | VALUES, "id": VALUES, "more": VALUES},
)
FUZZ = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Refused whatever the state: what is not JSON, not an object, no message, or no body of its operation.
REFUSED: list[tuple[str | bytes, str]] = [
    *((text, "MALFORMED_JSON") for text in ("", " ", "{", "nonsense", '{"type": "ping",}', b"\xff\xfe", b"\x00")),
    *((text, "VALIDATION_ERROR") for text in ("[]", "7", '"ping"', "null", "NaN", "{}", '{"type": null}')),
    *((f'{{"type": "{kind}"}}', "VALIDATION_ERROR") for kind in ("", "Observe", "predictions", "nothing", "\\ud800")),
    *((f'{{"type": "observe", "payload": {body}}}', "VALIDATION_ERROR") for body in ("[]", '"a"', "1", '{"x": 1}')),
    *((f'{{"type": "learn", "id": {key}}}', "VALIDATION_ERROR") for key in ('""', "true", "1.5", "[]", '"é"')),
    ('{"type": "learn", "id": "' + "k" * 256 + '"}', "VALIDATION_ERROR"),
    ('{"type": "learn", "other": 1}', "VALIDATION_ERROR"),
    ('{"type": "observe", "payload": {"emotives": {"x": NaN}}}', "VALIDATION_ERROR"),
    ('{"type": "observe", "payload": {"strings": ["\\ud800"]}}', "VALIDATION_ERROR"),
    ('{"type": "observe", "payload": {"vectors": [[1e999]]}}', "VALIDATION_ERROR"),
    (
        '{"type": "observe_sequence", "payload": {"observations": [{"strings": ["a"]}, {"strings": [1]}]}}',
        "VALIDATION_ERROR",
    ),
    ("[" * 100_000, "VALIDATION_ERROR"),
    ('{"type": "observe", "payload": {"strings": ["' + "x" * MESSAGE_BYTES_MAX + '"]}}', "BODY_TOO_LARGE"),
]


def exchanged(socket: ClientConnection, message: str | bytes) -> dict[str, object]:
    """Send a message; return its answer, which must be whole."""
    socket.send(message)
    answer: dict[str, object] = json.loads(socket.recv(timeout=60), parse_constant=pytest.fail)
    assert {"type", "data"} <= answer.keys() <= {"type", "data", "id"}, answer
    if answer["type"] == "error":
        error = schemas.ErrorInfo.model_validate(answer["data"])
        assert error.message
        assert STATUS[error.code] < 500, answer
    return answer


def test_what_is_no_message_is_refused_and_changes_nothing(service: Service) -> None:
    """Each frame that means nothing is answered with its error, the socket answers on, and nothing has changed."""
    service.ask("POST", "/observe", {"strings": ["kept"]})
    before = list(state(service))
    with service.socket() as socket:
        for message, code in REFUSED:
            answer = exchanged(socket, message)
            assert answer["type"] == "error", message[:80]
            assert schemas.ErrorInfo.model_validate(answer["data"]).code == code, message[:80]
            assert exchanged(socket, '{"type": "ping", "id": 7}') == {"type": "pong", "data": {}, "id": 7}
        assert list(state(service)) == before


@pytest.mark.parametrize("number", range(2))
def test_any_message_is_answered(service: Service, number: int) -> None:
    """Any JSON object is answered once, by its reply or by an error with its id, and the socket stays open."""
    with service.socket() as socket:

        @settings(FUZZ, max_examples=150)
        @given(frame=FRAMES)
        def any_message(frame: dict[str, object]) -> None:
            answer = exchanged(socket, json.dumps(frame))
            if "id" in answer:
                assert answer["id"] == frame["id"]

        @settings(FUZZ, max_examples=75)
        @given(raw=st.binary(max_size=40) | st.text(max_size=40))
        def any_bytes(raw: bytes | str) -> None:
            assert exchanged(socket, raw)["type"] == "error"

        (any_message, any_bytes)[number]()
        assert exchanged(socket, '{"type": "ping"}')["type"] == "pong"


def test_a_reading_message_changes_nothing(service: Service) -> None:
    """Messages that read, whatever their payload, leave everything as it is."""
    before = list(state(service))
    with service.socket() as socket:

        @settings(FUZZ, max_examples=60)
        @given(kind=st.sampled_from(READING), payload=VALUES)
        def reading(kind: str, payload: object) -> None:
            exchanged(socket, json.dumps({"type": kind, "payload": payload}))

        reading()
    assert list(state(service)) == before

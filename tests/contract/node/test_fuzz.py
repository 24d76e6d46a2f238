"""Whatever is sent, the node answers in its own words: no internal error, no reply that is not JSON."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kato_node.wire import schemas
from kato_node.wire.operations import OPERATIONS

RUN = (
    "import socket, sys; from kato_node.__main__ import run;"
    "sys.exit(run({'PROCESSOR_ID': 'p', 'KATO_HOME': sys.argv[1]}, socket.socket(fileno=int(sys.argv[2]))))"
)
FIELDS = [name for item in OPERATIONS if item.request is not None for name in item.request.model_fields]
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from([*FIELDS, "$", ".", "\0", ""])
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(10**18, 10**400) | st.floats() | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4))
BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4) | VALUES
PATHS = st.sampled_from([path for item in OPERATIONS for path in item.paths if "{" not in path])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a node that is a process of its own."""
    home: Path = tmp_path_factory.mktemp("home")
    listener = socket.create_server(("127.0.0.1", 0))
    node = subprocess.Popen(
        [sys.executable, "-c", RUN, str(home), str(listener.fileno())],
        pass_fds=[listener.fileno()],
        stderr=subprocess.DEVNULL,
    )
    port = listener.getsockname()[1]
    listener.close()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        yield http
    node.terminate()
    assert node.wait() == 0


@settings(max_examples=300, deadline=None)
@given(path=PATHS, body=BODIES)
def test_any_json_is_answered(client: httpx.Client, path: str, body: object) -> None:
    """Any JSON, and what Python takes for JSON, is applied or refused with a code; nothing is an internal error."""
    answered(client.post(path, content=json.dumps(body).encode()))


@settings(max_examples=200, deadline=None)
@given(path=PATHS, body=st.binary(max_size=40))
def test_any_bytes_are_answered(client: httpx.Client, path: str, body: bytes) -> None:
    """Any bytes are refused with a code, or happen to be JSON."""
    answered(client.post(path, content=body))


@settings(max_examples=200, deadline=None)
@given(name=TEXTS, value=st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")))
def test_any_name_is_answered(client: httpx.Client, name: str, value: str) -> None:
    """Any name in a path, a query or a header is found or refused with a code."""
    quoted = "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "surrogatepass"))
    for path in (f"/pattern/{quoted}", f"/gene/{quoted}", f"/predictions?unique_id={quoted}", f"/x/{quoted}"):
        answered(client.get(path))
    raw = value.strip().encode("latin-1")
    for header in (b"X-Session-ID", b"X-Request-ID", b"Idempotency-Key", b"X-Kato-Epoch", b"X-Kato-Secret"):
        answered(client.post("/learn", headers=[(header, raw)]))


def answered(reply: httpx.Response) -> None:
    """The reply is an operation's, or an error with the envelope, and JSON by the strictest reading."""
    body = json.loads(reply.content.decode(), parse_constant=pytest.fail)
    json.dumps(body, ensure_ascii=False).encode()
    if reply.status_code != 200:
        assert reply.status_code in {400, 404, 405, 413, 421, 422}, reply.text
        assert schemas.Error.model_validate_json(reply.content).status == reply.status_code

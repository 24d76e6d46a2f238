"""Access tokens: only what was issued under the processor's key is good, and only for what it names."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kato_node.wire.tokens import Grant, bearer, issued, node_secret, token_key, verified

KEY = "the-key-of-this-processor"
GRANT = Grant(session_id="s:1@x", processor_id="p")


def encoded(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload: bytes, key: str = KEY) -> str:
    """Return a token made by hand, as the format says."""
    head = f"kato1.{encoded(payload)}"
    return f"{head}.{encoded(hmac.new(key.encode(), head.encode(), hashlib.sha256).digest())}"


def test_what_is_derived_is_as_the_format_says() -> None:
    """A node's secret and a processor's key are HMAC-SHA256 in hexadecimal digits under the deployment secret."""
    for derive, purpose in ((node_secret, b"node:n-1"), (token_key, b"processor:n-1")):
        assert derive("a-secret", "n-1") == hmac.new(b"a-secret", purpose, hashlib.sha256).hexdigest()


@given(st.text(), st.text(), st.text())
def test_what_is_derived_is_for_one_purpose(secret: str, one: str, other: str) -> None:
    """No node has another's secret, no processor another's key, and none of the one kind is of the other."""
    derived = {node_secret(secret, one), node_secret(secret, other), token_key(secret, one), token_key(secret, other)}
    assert len(derived) == (2 if one == other else 4)


def test_a_token_is_as_the_format_says() -> None:
    """A token can be made, and read, by anybody who knows the format and the key."""
    assert issued(GRANT, key=KEY) == signed(b'{"session_id":"s:1@x","processor_id":"p"}')
    payload = issued(GRANT, key=KEY).split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims == {"session_id": "s:1@x", "processor_id": "p"}


def test_a_token_is_good_under_its_key_alone() -> None:
    """It grants what it names under the key it was issued under, and nothing under another one."""
    token = issued(GRANT, key=KEY)
    assert verified(token, key=KEY) == GRANT
    assert verified(token, key=KEY + "x") is None
    assert KEY not in token


@pytest.mark.parametrize(
    "token",
    [
        "",
        "kato1",
        "kato1..",
        "kato1.e30.",
        "kato2." + issued(GRANT, key=KEY)[6:],
        issued(GRANT, key=KEY) + "=",
        issued(GRANT, key=KEY) + "\n",
        issued(GRANT, key=KEY).upper(),
        signed(b"{}"),
        signed(b"[]"),
        signed(b"null"),
        signed(b"\xff"),
        signed(b"x"),
        "kato1.A." + signed(b"")[7:],
        "kato1." + "A" * 5000 + "." + "A" * 43,
        "ключ",
        "\ud800",
    ],
)
def test_nonsense_grants_nothing(token: str) -> None:
    """Whatever else is sent for a token grants nothing, and raises nothing."""
    assert verified(token, key=KEY) is None


@given(st.data())
def test_no_character_can_be_changed(data: st.DataObject) -> None:
    """A token of which any character was changed grants nothing, or what it granted before."""
    token = issued(GRANT, key=KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + data.draw(st.characters(codec="utf-8")) + token[at + 1 :]
    assert verified(changed, key=KEY) == (GRANT if changed == token else None)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc ")], b"abc"),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"Bearer a b")], None),
        ([(b"authorization", b"Bearer \xff")], b"\xff"),
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer a")], None),
        ([(b"x-api-key", b"abc")], None),
    ],
)
def test_a_bearer_is_read_from_one_header(headers: list[tuple[bytes, bytes]], found: bytes | None) -> None:
    """What stands after `Bearer` in the one Authorization header is the credential."""
    assert bearer(headers) == found

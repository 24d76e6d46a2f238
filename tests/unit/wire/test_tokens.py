"""Access tokens: only what was issued under the secret is good, and only for what it names."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kato_node.wire.tokens import Grant, bearer, issued, verified

SECRET = "the-secret-of-this-deployment"
GRANT = Grant(session_id="s:1@x", processor_id="p")


def encoded(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload: bytes, secret: str = SECRET) -> str:
    """Return a token made by hand, as the format says."""
    head = f"kato1.{encoded(payload)}"
    return f"{head}.{encoded(hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest())}"


def test_a_token_is_as_the_format_says() -> None:
    """A token can be made, and read, by anybody who knows the format and the secret."""
    assert issued(GRANT, secret=SECRET) == signed(b'{"session_id":"s:1@x","processor_id":"p"}')
    payload = issued(GRANT, secret=SECRET).split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims == {"session_id": "s:1@x", "processor_id": "p"}


def test_a_token_is_good_under_its_secret_alone() -> None:
    """It grants what it names under the secret it was issued under, and nothing under another one."""
    token = issued(GRANT, secret=SECRET)
    assert verified(token, secret=SECRET) == GRANT
    assert verified(token, secret=SECRET + "x") is None
    assert SECRET not in token


@pytest.mark.parametrize(
    "token",
    [
        "",
        "kato1",
        "kato1..",
        "kato1.e30.",
        "kato2." + issued(GRANT, secret=SECRET)[6:],
        issued(GRANT, secret=SECRET) + "=",
        issued(GRANT, secret=SECRET) + "\n",
        issued(GRANT, secret=SECRET).upper(),
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
    assert verified(token, secret=SECRET) is None


@given(st.data())
def test_no_character_can_be_changed(data: st.DataObject) -> None:
    """A token of which any character was changed grants nothing, or what it granted before."""
    token = issued(GRANT, secret=SECRET)
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + data.draw(st.characters(codec="utf-8")) + token[at + 1 :]
    assert verified(changed, secret=SECRET) == (GRANT if changed == token else None)


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

"""What proves who calls at a node: access tokens, and its own secret for control calls. Pure; standard library only.

    kato1.<base64url of JSON {"session_id", "processor_id"}>.<base64url of HMAC-SHA256 over what stands before the dot>

The key of the HMAC is the processor's (`token_key`). A token holds no secret but itself, and no end: it is good for
this session of this processor for as long as there is one, whichever node has it.

Everything is derived from the deployment secret, which only gateways hold: a node of theirs has a secret of its own,
and gets the key of the processor that it is bound to. So one that falls into wrong hands opens no other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

_PREFIX = "kato1"
_TOKEN = re.compile(r"kato1\.[A-Za-z0-9_-]{1,1024}\.[A-Za-z0-9_-]{43}")
_BEARER = re.compile(rb"(?i:bearer) +(\S+) *")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token is good for: every operation of one session of one processor."""

    session_id: str
    processor_id: str


def node_secret(deployment_secret: str, node_id: str) -> str:
    """Return what opens the control routes of this node, and of no other."""
    return _derived(deployment_secret, f"node:{node_id}")


def token_key(deployment_secret: str, processor_id: str) -> str:
    """Return what the tokens of this processor's sessions are issued under, the same for each of its nodes."""
    return _derived(deployment_secret, f"processor:{processor_id}")


def issued(grant: Grant, *, key: str) -> str:
    """Return the token for a grant under its processor's key; the same grant has the same token."""
    claims = {"session_id": grant.session_id, "processor_id": grant.processor_id}
    signed = f"{_PREFIX}.{_text(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{signed}.{_text(_mac(signed, key))}"


def verified(token: str, *, key: str) -> Grant | None:
    """Return what a token grants, None for one that was not issued under this key; compared in constant time."""
    if not _TOKEN.fullmatch(token):
        return None
    signed, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature, _text(_mac(signed, key))):
        return None
    try:
        claims = json.loads(_bytes(signed.partition(".")[2]))
        return Grant(session_id=claims["session_id"], processor_id=claims["processor_id"])
    except (binascii.Error, ValueError, KeyError, TypeError):  # signed by us, and of another version's making
        return None


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return what an `Authorization: Bearer …` header holds, None without one; names are in lower case.

    Two headers are as good as none: which of them was meant cannot be told.
    """
    given = [value for name, value in headers if name == b"authorization"]
    found = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
    return None if found is None else found[1]


def _derived(secret: str, purpose: str) -> str:
    """Return 64 characters of 0-9a-f, from which neither the secret nor what is derived for another purpose follows."""
    return hmac.digest(secret.encode(), purpose.encode(), hashlib.sha256).hex()


def _mac(signed: str, key: str) -> bytes:
    return hmac.digest(key.encode(), signed.encode("ascii"), hashlib.sha256)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

"""Whose call it is, and what is whose.

An owner is the name of an API key. Without keys there is no owner (None), and everything is everybody's. With keys:

    a session       belongs to the owner who created it; to every other it does not exist
    a processor     belongs to the first owner who named it, for good; what was learned without keys to whoever does so
    `default`       is a session of each owner's own, under the id `default:<owner>`, which nobody else may name
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass

DEFAULT_SESSION = "default"
_OWN_DEFAULT = f"{DEFAULT_SESSION}:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{16,256}")


class BadKeys(Exception):
    """A table of keys that cannot be used; the text says why, and never what a key is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key's owner, and its SHA-256: no key is kept."""

    owner: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class KeyTable:
    """The keys that are good here; none: no key is asked for."""

    keys: tuple[ApiKey, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.keys)

    def owner_of(self, key: bytes) -> str | None:
        """Return whose key it is, None if nobody's. Takes the same time whichever it is, and however wrong."""
        digest = _digest(key)
        owner = None
        for known in self.keys:
            if hmac.compare_digest(known.digest, digest):
                owner = known.owner
        return owner


NO_KEYS = KeyTable()


def key_table(entries: Iterable[str]) -> KeyTable:
    """Return the table of `name:key` entries, at least one. An owner may have several keys, a key one owner.

    Raises: BadKeys.
    """
    keys: list[ApiKey] = []
    for number, entry in enumerate(entries, 1):
        owner, _, key = entry.strip().partition(":")
        if not _NAME.fullmatch(owner):
            raise BadKeys(f"entry {number} must be name:key, the name 1 to 64 of A-Z a-z 0-9 . _ @ + -")
        if not _KEY.fullmatch(key):
            raise BadKeys(f"the key in entry {number} must be 16 to 256 characters of A-Z a-z 0-9 . _ ~ + / = -")
        keys.append(ApiKey(owner=owner, digest=_digest(key.encode("ascii"))))
        if any(known.digest == keys[-1].digest for known in keys[:-1]):
            raise BadKeys(f"the key in entry {number} is there already; each must be another")
    if not keys:
        raise BadKeys("there is no name:key in it")
    return KeyTable(tuple(keys))


def permits(owner: str | None, *, caller: str | None) -> bool:
    """Whether what is `owner`'s may be used by this caller."""
    return caller is None or caller == owner


def meant(session_id: str, *, caller: str | None) -> str:
    """Return the id of the session that a caller means: `default` is the caller's own."""
    return session_id if caller is None or session_id != DEFAULT_SESSION else _OWN_DEFAULT + caller


def is_default(session_id: str, *, owner: str | None) -> bool:
    """Whether this is the session that its owner has without creating it, and that never expires."""
    return session_id == meant(DEFAULT_SESSION, caller=owner)


def may_name(name: str, *, caller: str | None) -> bool:
    """Whether a caller may give a session or a processor this name: `default:…` is its owner's alone."""
    return caller is None or not name.startswith(_OWN_DEFAULT) or is_default(name, owner=caller)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

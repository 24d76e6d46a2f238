"""Pages of a list that is sorted by a text: how many, and after which; the cursor is opaque to callers."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from kato_node.wire.errors import InvalidRequest
from kato_node.wire.operations import PAGE_DEFAULT, PAGE_MAX

_LIMIT = re.compile(r"[0-9]{1,6}")


def asked(arguments: Mapping[str, str]) -> tuple[int, str]:
    """Return the `limit` and what the page begins after, "" for the first. Raises: InvalidRequest."""
    given = arguments.get("limit", str(PAGE_DEFAULT))
    limit = int(given) if _LIMIT.fullmatch(given) else 0
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidRequest([("limit", f"must be an integer, 1 to {PAGE_MAX}")])
    return limit, _after(arguments["cursor"]) if arguments.get("cursor") else ""


def cursor(after: str) -> str:
    """Return the cursor of the page that begins after this text."""
    return base64.urlsafe_b64encode(after.encode()).decode().rstrip("=")


def _after(given: str) -> str:
    try:
        after = base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        after = ""
    if cursor(after) != given:
        raise InvalidRequest([("cursor", "must be a next_cursor of this list")])
    return after

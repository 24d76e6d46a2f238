"""Reading JSON as the interfaces mean it: UTF-8, nothing but JSON, and nothing that another reader could not take."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import TypeAlias

from kato_node.wire.errors import InvalidRequest, MalformedJson

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

DEPTH_MAX = 128
_TOO_DEEP = [("body", f"nested deeper than {DEPTH_MAX} levels")]
# What only a look at the values can decide: floats that overflow, at 309 digits. An exponent of three digits may be the
# source, or one of two behind at least 210.
_HUGE_NUMBER = re.compile(rb"[eE]\+?\d{3}|\d{200}")


def loads(raw: bytes) -> Json:
    """Return the JSON value in `raw`.

    Raises:
        MalformedJson: not UTF-8, or not JSON.
        InvalidRequest: it reads as JSON but holds NaN or an infinity, a lone surrogate, a number of more digits than
            Python reads, or more than DEPTH_MAX levels. Each error names the field, none repeats its content.
    Cost: O(len(raw)); the values are walked only if something in the text could be one of these.
    """
    if not raw.strip():
        raise MalformedJson("The body is empty; send a JSON object.")
    try:
        value: Json = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedJson(f"The body is not UTF-8 (at byte {error.start}).") from error
    except json.JSONDecodeError as error:
        raise MalformedJson(f"The body is not JSON: {error.msg} (at character {error.pos}).") from error
    except RecursionError as error:
        raise InvalidRequest(_TOO_DEEP) from error
    except ValueError as error:  # the interpreter's limit on the digits of an integer
        raise InvalidRequest([("body", "an integer has too many digits")]) from error
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _too_deep(value):
        raise InvalidRequest(_TOO_DEEP)
    if _suspect(raw):
        errors = list(_faults(value, ""))
        if errors:
            raise InvalidRequest(errors)
    return value


def dumps(value: object) -> bytes:
    """Return `value` as compact JSON in UTF-8. Values are ours: finite, and without lone surrogates."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def canonical(value: object) -> bytes:
    """Return a text of the JSON value, the same for every order of its keys: sorted, compact, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _too_deep(value: Json) -> bool:
    level: list[Json] = [value]
    for _ in range(DEPTH_MAX + 1):
        children = [
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)
        ]
        if not children:
            return False
        level = [item for items in children for item in items if isinstance(item, dict | list)]
    return True


def _suspect(raw: bytes) -> bool:
    marks = (b"\\ud", b"\\uD", b"NaN", b"Infinity")
    return any(mark in raw for mark in marks) or _HUGE_NUMBER.search(raw) is not None


def _faults(value: Json, path: str) -> Iterator[tuple[str, str]]:
    """Yield (field, message) for what no other JSON reader could take; recursion is bounded by DEPTH_MAX."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield path or "body", "must be a finite number"
    elif isinstance(value, str):
        if not _encodable(value):
            yield path or "body", "contains a lone surrogate"
    elif isinstance(value, dict):
        if not all(map(_encodable, value)):
            yield path or "body", "has a key with a lone surrogate"
        for key, item in value.items():
            yield from _faults(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _faults(item, f"{path}.{index}" if path else str(index))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

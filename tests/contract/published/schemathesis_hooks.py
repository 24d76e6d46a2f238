"""What schemathesis cannot know: keys are for one call each, and what a made-up id would never meet."""

from __future__ import annotations

from itertools import count
from typing import Any

import schemathesis
from schemathesis import Case, HookContext, SerializationContext

KEY = "Idempotency-Key"
CREATIONS = ("/sessions", "/v2/sessions", "/session/create")
_numbers = count()


@schemathesis.serializer("application/x-ndjson")
def lines(context: SerializationContext, value: object) -> bytes:
    """Send a text as it is: lines of JSON, or what was made up instead."""
    return str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, object]) -> None:
    """Give each call a key of its own, a session that lives, and each creation the one processor of this run."""
    key = case.headers.get(KEY)
    if key and len(key) <= 200:
        case.headers[KEY] = f"{next(_numbers)}-{key}"
    if "session_id" in case.path_parameters and case.method != "DELETE":
        case.path_parameters["session_id"] = "default"
    if case.path in CREATIONS and isinstance(case.body, dict) and isinstance(case.body.get("node_id"), str | None):
        case.body["node_id"] = "fuzzed"

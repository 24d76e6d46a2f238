"""The error envelope of every service (api.md, section 4), and the one table from error codes to HTTP statuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "MALFORMED_JSON": 400,
        "UNAUTHENTICATED": 401,
        "FORBIDDEN": 403,
        "NOT_FOUND": 404,
        "SESSION_NOT_FOUND": 404,
        "PROCESSOR_NOT_FOUND": 404,
        "NODE_NOT_FOUND": 404,
        "PATTERN_NOT_FOUND": 404,
        "GENE_NOT_FOUND": 404,
        "METHOD_NOT_ALLOWED": 405,
        "PROCESSOR_FENCED": 409,
        "CONFLICT": 409,
        "SESSION_EXPIRED": 410,
        "BODY_TOO_LARGE": 413,
        "MEMORY_TOO_LARGE": 413,
        "WRONG_NODE": 421,
        "VALIDATION_ERROR": 422,
        "VECTOR_DIMENSION_MISMATCH": 422,
        "IDEMPOTENCY_KEY_REUSED": 422,
        "RATE_LIMITED": 429,
        "CAPACITY_REACHED": 429,
        "INTERNAL_ERROR": 500,
        "NODE_FAILED": 502,
        "STORAGE_UNAVAILABLE": 503,
        "RUNTIME_UNAVAILABLE": 503,
        "NODE_TIMEOUT": 504,
    }
)
RETRY_AFTER_S = 1
ERRORS_MAX = 100
TEXT_MAX = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReply:
    """What a caller is told of an error; `code` is one of STATUS, `details` is JSON, `headers` are HTTP's alone."""

    code: str
    message: str
    details: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return STATUS[self.code]

    @property
    def error(self) -> dict[str, object]:
        """The error itself: the envelope's inner part, and a WebSocket error's data."""
        return {"code": self.code, "message": self.message, "details": dict(self.details)}

    @property
    def envelope(self) -> dict[str, object]:
        """The body of the HTTP reply."""
        return {"error": self.error, "status": self.status}

    @property
    def all_headers(self) -> dict[str, str]:
        """The HTTP headers: the reply's own, Retry-After where trying again is the advice, what a 401 must ask for."""
        retry = {"Retry-After": str(RETRY_AFTER_S)} if self.status in {429, 503} else {}
        challenge = {"WWW-Authenticate": 'Bearer realm="kato"'} if self.status == 401 else {}
        return {**retry, **challenge, **self.headers}


class WireError(Exception):
    """A request that could not be understood; raised before any service sees it."""

    code = "VALIDATION_ERROR"

    def __init__(self, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, object] = details or {}


class MalformedJson(WireError):
    """The body is not JSON in UTF-8."""

    code = "MALFORMED_JSON"


class Unauthenticated(WireError):
    """The request proves nobody's leave."""

    code = "UNAUTHENTICATED"


class Forbidden(WireError):
    """The request is understood, and not allowed."""

    code = "FORBIDDEN"


class BodyStalled(WireError):
    """The rest of the body does not come."""

    code = "MALFORMED_JSON"

    def __init__(self, silence_max_s: float) -> None:
        super().__init__(f"The body is not complete, and nothing more of it came for {silence_max_s:g} seconds.")


class BodiesTooMany(WireError):
    """Too much is in the hands of requests that are not answered yet."""

    code = "RATE_LIMITED"

    def __init__(self) -> None:
        super().__init__("Too many large requests are under way here; try again when some of them are answered.")


class BodyTooLarge(WireError):
    """The body exceeds the limit."""

    code = "BODY_TOO_LARGE"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"The body is larger than {max_bytes} bytes; send less at a time.", {"body_bytes_max": max_bytes}
        )


class LineTooLong(WireError):
    """A line of an import exceeds the limit."""

    code = "BODY_TOO_LARGE"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The line is longer than {max_bytes} bytes.", {"line_bytes_max": max_bytes})


class InvalidRequest(WireError):
    """The request is JSON, but not what the operation takes; each error names its field."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        shown = field_errors(errors)
        first = shown[0]
        super().__init__(f"Invalid request: {first['field']}: {first['message']}", {"errors": shown})


def field_errors(errors: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Return (field, message) pairs as `details.errors` shows them: the first ERRORS_MAX, printable and short."""
    pairs = [pair for pair, _ in zip(errors, range(ERRORS_MAX), strict=False)]
    return [{"field": printable(name), "message": printable(message)} for name, message in pairs]


def printable(text: str) -> str:
    """Return the text fit for any JSON reader: no lone surrogates, and not longer than TEXT_MAX."""
    clean = text.encode("utf-8", "replace").decode()
    return clean if len(clean) <= TEXT_MAX else clean[: TEXT_MAX - 1] + "…"


def pydantic_errors(errors: Iterable[Mapping[str, object]]) -> list[tuple[str, str]]:
    """Return pydantic's (or FastAPI's) errors as (field, message); the offending input itself is left out."""
    return [(_field(error["loc"]), _message(error)) for error in errors]


def _field(location: object) -> str:
    parts = [str(part) for part in location] if isinstance(location, tuple) else []
    inner = parts[1:] if parts[:1] in (["body"], ["query"], ["path"], ["header"]) else parts
    return ".".join(inner) or "body"


def _message(error: Mapping[str, object]) -> str:
    return "unknown field" if error["type"] == "extra_forbidden" else str(error["msg"])

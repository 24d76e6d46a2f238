"""Logs: one JSON object a line (api.md, section 4); `event` is the message, whatever `extra` holds stands beside it.

Exceptions are logged by type and place. Their text may repeat what a user sent, so it appears at DEBUG only.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# What every line of the work at hand carries: request_id, session_id, processor_id, epoch.
context: ContextVar[Mapping[str, object]] = ContextVar("log_context", default=MappingProxyType({}))
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_FRAMES_MAX = 20


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: ts (UTC), level, event, the context, the record's extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a newline."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": record.getMessage(),
            **context.get(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= _exception(record.exc_info[1])
        return json.dumps(line, default=str)


def _exception(error: BaseException) -> dict[str, object]:
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MAX:]
    shown: dict[str, object] = {
        "exception": type(error).__qualname__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    cause = error.__cause__ or error.__context__
    if cause is not None:
        shown["cause"] = type(cause).__qualname__
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        shown["text"] = str(error)
    return shown


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send every logger's records of `level` (one of LEVELS) and above to `stream` (stderr), as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Their INFO tells of each start and connection; ours says it once, in our words.
    for chatty in ("asyncio", "websockets", "pymongo"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    # Its errors are those of requests, which `web.Edge` has logged, and refused handshakes, which are no errors.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

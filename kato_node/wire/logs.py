"""Logs: one JSON object a line (api.md, section 4); `event` is the message, whatever `extra` holds stands beside it.

An event is a name in snake_case, written out where it is logged; what libraries log is the event LIBRARY.

Exceptions are logged by type and place. Their text may repeat what a user sent, so it appears at DEBUG only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# What every line of the work at hand carries: request_id, session_id, processor_id, epoch.
context: ContextVar[Mapping[str, object]] = ContextVar("log_context", default=MappingProxyType({}))
LIBRARY = "library"
OWN = ("kato_node", "kato_gateway", "container_manager")
LEVEL_FILE = "log_level"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_FRAMES_MAX = 20
_log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: ts (UTC), level, event, the context, the record's extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a newline."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            **_event(record),
            **context.get(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= _exception(record.exc_info[1])
        return json.dumps(line, default=str)


def _event(record: logging.LogRecord) -> dict[str, object]:
    if record.name.partition(".")[0] in OWN:
        return {"event": record.getMessage()}
    return {"event": LIBRARY, "logger": record.name, "message": record.getMessage()}


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
    logging.getLogger().handlers[:] = [handler]
    set_level(level)


def set_level(level: str) -> None:
    """Log records of this level (one of LEVELS) and above from now on."""
    logging.getLogger().setLevel(level)
    # Their INFO tells of each start and connection; ours says it once, in our words.
    for chatty in ("asyncio", "websockets", "pymongo"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    # Its errors are those of requests, which `web.Edge` has logged, and refused handshakes, which are no errors.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)


def reread_level(home: Path) -> None:
    """Set the level that `home/log_level` names in one word; what is no level, or cannot be read, changes nothing."""
    path = home / LEVEL_FILE
    try:
        level = path.read_text("ascii").strip().upper()
    except (OSError, ValueError) as error:
        _log.warning("log_level_unreadable", extra={"path": str(path), "reason": repr(error)})
        return
    if level in LEVELS:
        set_level(level)
        _log.log(logging.getLogger().level, "log_level_set", extra={"log_level": level})
    else:
        _log.warning("log_level_unreadable", extra={"path": str(path), "reason": f"no such level: {level[:20]!r}"})


def reread_on_hangup(loop: asyncio.AbstractEventLoop, home: Path, *, at_terminal_end: Callable[[], object]) -> None:
    """At SIGHUP read the level again; or, if it comes because the terminal we were started in is gone, end.

    Under nohup a terminal that goes away stays without effect.
    """
    terminals = [number for number in range(3) if _is_terminal(number)]
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def hung_up() -> None:
        if all(map(_is_terminal, terminals)):
            reread_level(home)
            return
        _write_nowhere(terminals)
        if not ignored:
            at_terminal_end()

    loop.add_signal_handler(signal.SIGHUP, hung_up)


def _write_nowhere(descriptors: Iterable[int]) -> None:
    """Let what would be written where nobody reads any more go, instead of failing at each line and at the end."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in descriptors:
        os.dup2(null, number)
    os.close(null)


def _is_terminal(descriptor: int) -> bool:
    """Whether this is a terminal, and still there: one that hung up is none any more."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False

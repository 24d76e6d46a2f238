"""The fork server's own log: JSON lines as the services write them. Standard library only."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LEVEL_FILE = "log_level"


class ForkLog:
    """Writes to stderr what is of its level and above: INFO, until `reread` finds another."""

    def __init__(self, home: Path) -> None:
        self._file = home / LEVEL_FILE
        self._level = "INFO"

    def info(self, event: str, **facts: object) -> None:
        """Say what happened."""
        self._write("INFO", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        """Say what went wrong, and will be tried again or did no harm."""
        self._write("WARNING", event, facts)

    def reread(self) -> None:
        """Take the level that the home's file names in one word; anything else changes nothing."""
        try:
            level = self._file.read_text("ascii").strip().upper()
        except (OSError, ValueError) as error:
            self.warning("log_level_unreadable", path=str(self._file), reason=repr(error))
            return
        if level in LEVELS:
            self._level = level
            self._write(level, "log_level_set", {"log_level": level})
        else:
            self.warning("log_level_unreadable", path=str(self._file), reason=f"no such level: {level[:20]!r}")

    def _write(self, level: str, event: str, facts: dict[str, object]) -> None:
        if LEVELS.index(level) < LEVELS.index(self._level):
            return
        ts = datetime.now(tz=UTC).isoformat(timespec="milliseconds")
        with suppress(OSError):  # a full disk is no reason to end
            sys.stderr.write(json.dumps({"ts": ts, "level": level, "event": event, **facts}) + "\n")
            sys.stderr.flush()

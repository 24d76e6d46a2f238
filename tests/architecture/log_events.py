"""Which events there are: every name that the services and the fork server log, read from their sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from kato_gateway.events import Kind
from kato_node.wire.logs import LIBRARY
from tests.architecture.source import Module, modules

LOGGERS = frozenset({"_log", "log", "logger"})
LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCall:
    """One call of a logger; `event` is None if it is not written out there."""

    where: str
    event: str | None


def log_calls() -> tuple[LogCall, ...]:
    """Return every call of a logger in the packages."""
    return tuple(call for module in modules() for call in _calls(module))


def log_events() -> frozenset[str]:
    """Return every event that can stand in a log."""
    written = {call.event for call in log_calls() if call.event is not None}
    return frozenset(written | set(get_args(Kind)) | {LIBRARY})


def _calls(module: Module) -> Iterator[LogCall]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not _is_logger(node.func):
            continue
        position = 1 if node.func.attr == "log" else 0
        event = node.args[position]
        text = event.value if isinstance(event, ast.Constant) and isinstance(event.value, str) else None
        yield LogCall(where=f"{module.name}:{node.lineno}", event=text)


def _is_logger(function: ast.Attribute) -> bool:
    if function.attr not in LEVELS | {"log"}:
        return False
    owner = function.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return name in LOGGERS

"""What a look at one thing found, and how that is shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

Status = Literal["ok", "warn", "fail"]

_CHECK_WIDTH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
        check: what was looked at, in a word.
        message: what was found; advice: what to do, empty if nothing.
    """

    check: str
    status: Status
    message: str
    advice: str = ""


class Trouble(Protocol):
    """`warn` or `fail`."""

    def __call__(self, check: str, message: str, advice: str) -> Finding:
        """Return the finding."""


def ok(check: str, message: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(check=check, status="ok", message=message)


def warn(check: str, message: str, advice: str) -> Finding:
    """Return that something works and should be looked at."""
    return Finding(check=check, status="warn", message=message, advice=advice)


def fail(check: str, message: str, advice: str) -> Finding:
    """Return that something does not work, or will not."""
    return Finding(check=check, status="fail", message=message, advice=advice)


def failed(findings: Iterable[Finding]) -> bool:
    """Whether something fails."""
    return any(finding.status == "fail" for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """Return the report for people: a line for each finding, and one for what to do."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status.upper():4}  {finding.check:{_CHECK_WIDTH}}  {finding.message}")
        if finding.advice:
            lines.append(f"{'':{_CHECK_WIDTH + 8}}-> {finding.advice}")
    counts = {status: sum(finding.status == status for finding in findings) for status in ("ok", "warn", "fail")}
    lines.append("; ".join(f"{count} {status}" for status, count in counts.items()))
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """Return the report for programs: {"ok", "findings": [{"check", "status", "message", "advice"}]}."""
    return json.dumps({"ok": not failed(findings), "findings": [asdict(finding) for finding in findings]})

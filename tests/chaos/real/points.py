"""Orders from the harness to the nodes of a home: files that whoever obeys them takes away.

    HOME/chaos/PROCESSOR/POINT      the next commit of the processor's node obeys it
    HOME/chaos/PROCESSOR/slow       while it is there, commits take a second
    HOME/chaos/plant                the mistake that every node of the home makes (plants.py)

Standard library only: nodes import this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

POINTS = ("before-commit", "after-commit", "lost-commit-reply", "failed-commit", "lost-reply")
SLOW = "slow"


def order(home: Path, processor_id: str, point: str) -> None:
    """Have the processor's node obey."""
    directory = home / "chaos" / processor_id
    directory.mkdir(parents=True, exist_ok=True)
    (directory / point).touch()


def withdraw(home: Path, processor_id: str, points: Sequence[str] = (*POINTS, SLOW)) -> None:
    """Have nobody obey any more."""
    for point in points:
        (home / "chaos" / processor_id / point).unlink(missing_ok=True)


def taken(home: Path, processor_id: str, point: str) -> bool:
    """Whether there was such an order; it is obeyed once."""
    with contextlib.suppress(OSError):
        (home / "chaos" / processor_id / point).unlink()
        return True
    return False


def is_slow(home: Path, processor_id: str) -> bool:
    """Whether commits are to take their time."""
    return (home / "chaos" / processor_id / SLOW).exists()


def plant(home: Path, name: str) -> None:
    """Have every node that starts from now on make this mistake."""
    (home / "chaos").mkdir(parents=True, exist_ok=True)
    (home / "chaos" / "plant").write_text(name)


def planted(home: Path) -> str:
    """Return the mistake that nodes are to make; "" for none."""
    try:
        return (home / "chaos" / "plant").read_text()
    except OSError:
        return ""

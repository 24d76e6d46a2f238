"""The simulation: real code over memory, virtual time, thousands of runs."""

from __future__ import annotations

from tests.chaos.sim.ground import run

__all__ = ["run"]

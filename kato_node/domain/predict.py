"""Predictions (processor.md, section 6): a function of (stm, config, ltm), computed when read."""

from __future__ import annotations

from dataclasses import dataclass

from kato_node.domain.config import Config
from kato_node.domain.learn import Pattern
from kato_node.domain.ltm import LtmView
from kato_node.domain.state import Event, Json, Stm


@dataclass(frozen=True, slots=True, kw_only=True)
class FuturePotential:
    """One future that the kept candidates share, and their weight behind it."""

    future: Stm
    aggregate_potential: float
    supporting_patterns: int
    total_weighted_frequency: float

    def as_dict(self) -> dict[str, Json]:
        """Return it as the interfaces show it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One pattern that the STM is like, with its parts and metrics."""

    pattern: Pattern
    matches: tuple[str, ...]
    past: Stm
    present: Stm
    future: Stm
    missing: tuple[Event, ...]
    extras: tuple[Event, ...]

    def as_dict(self) -> dict[str, Json]:
        """Return the prediction as the interfaces show it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The answer: the best predictions, best first, and the futures of all candidates, weightiest first."""

    predictions: tuple[Prediction, ...] = ()
    future_potentials: tuple[FuturePotential, ...] = ()


def predict(stm: Stm, *, config: Config, ltm: LtmView) -> Ranking:
    """Return what the STM is like and what comes next."""
    raise NotImplementedError

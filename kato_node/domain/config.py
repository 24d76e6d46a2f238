"""The configuration of a processor and of each session (processor.md, section 8; the v1 API calls it genes)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TypeAlias

from kato_node.domain.errors import GeneNotFound, ValidationFailed

ConfigValue: TypeAlias = bool | int | float | str | None

# What `rank_sort_algo` may name: the numeric fields of a prediction (processor.md, section 6).
RANKABLE = (
    "frequency",
    "similarity",
    "evidence",
    "confidence",
    "snr",
    "fragmentation",
    "potential",
    "itfdf_similarity",
    "entropy",
    "normalized_entropy",
    "global_normalized_entropy",
    "confluence",
    "tfidf_score",
    "pattern_probability",
    "bayesian_prior",
    "bayesian_likelihood",
    "bayesian_posterior",
    "weighted_strength",
    "predictive_information",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that can be set; processor.md, section 8, has the meaning of each name."""

    max_pattern_length: int = 0
    stm_mode: str = "CLEAR"
    persistence: int = 5
    recall_threshold: float = 0.1
    max_predictions: int = 100
    min_prediction_symbols: int = 2
    rank_sort_algo: str = "potential"
    sort_symbols: bool = True
    vector_neighbors: int = 0
    vector_distance_max: float | None = None
    # Accepted and returned for existing clients, without effect.
    process_predictions: bool = True
    smoothness: int = 3
    quiescence: int = 3

    def updated(self, values: Mapping[str, object]) -> Config:
        """Return this config with the given values, as decoded from JSON: all of them or none.

        Raises: ValidationFailed, naming every unknown name and bad value.
        """
        accepted: dict[str, ConfigValue] = {}
        errors: list[tuple[str, str]] = []
        for name, value in values.items():
            try:
                accepted[name] = _checked(name, value)
            except ValueError as error:
                errors.append((str(name), str(error)))
        if errors:
            raise ValidationFailed(errors)
        return replace(self, **accepted)  # type: ignore[arg-type]  # each value has passed its name's rule

    def as_dict(self) -> dict[str, ConfigValue]:
        """Return every name and value."""
        return asdict(self)

    def get(self, name: str) -> ConfigValue:
        """Return one value by name. Raises: GeneNotFound."""
        if name not in _RULES:
            raise GeneNotFound(name, tuple(_RULES))
        value: ConfigValue = getattr(self, name)
        return value


def from_environment(environment: Mapping[str, str]) -> Config:
    """Return a node's defaults: the config names in capitals; other variables are not looked at, empty ones are unset.

    Raises: ValidationFailed, naming every bad variable.
    """
    values: dict[str, object] = {}
    errors: list[tuple[str, str]] = []
    for name in _RULES:
        text = environment.get(name.upper(), "")
        if not text:
            continue
        try:
            values[name] = _checked(name, _decoded(text))
        except ValueError as error:
            errors.append((name.upper(), str(error)))
    if errors:
        raise ValidationFailed(errors)
    return DEFAULT.updated(values)


def _decoded(text: str) -> object:
    """Return what the text of an environment variable says: a number in decimals, true or false, else the text."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?[0-9]{1,400}", text):
        return int(text)
    if re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
        return float(text)
    return text


def _integer(low: int, high: int) -> Callable[[object], ConfigValue]:
    def rule(value: object) -> ConfigValue:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be an integer from {low} to {high}")
        return value

    return rule


def _flag(value: object) -> ConfigValue:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - one kind of error for every bad value
    return value


def _choice(*names: str) -> Callable[[object], ConfigValue]:
    def rule(value: object) -> ConfigValue:
        if not isinstance(value, str) or value not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return value

    return rule


def _fraction(value: object) -> ConfigValue:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1")
    return float(value) + 0.0  # -0.0 becomes 0.0


def _distance(value: object) -> ConfigValue:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _FLOAT_MAX:
        raise ValueError("must be a number above 0, or null")
    return float(value)


def _checked(name: str, value: object) -> ConfigValue:
    """Return the value as the config keeps it. Raises: ValueError, whose text says what is allowed."""
    if name not in _RULES:
        raise ValueError(f"unknown name; known are {', '.join(_RULES)}")
    return _RULES[name](value)


_FLOAT_MAX = math.nextafter(math.inf, 0)
_INT64_MAX = 2**63 - 1  # what a store can keep

_RULES: Mapping[str, Callable[[object], ConfigValue]] = {
    "max_pattern_length": _integer(0, _INT64_MAX),
    "stm_mode": _choice("CLEAR", "ROLLING"),
    "persistence": _integer(1, 100),
    "recall_threshold": _fraction,
    "max_predictions": _integer(1, 10_000),
    "min_prediction_symbols": _integer(1, 2),
    "rank_sort_algo": _choice(*RANKABLE),
    "sort_symbols": _flag,
    "vector_neighbors": _integer(0, 100),
    "vector_distance_max": _distance,
    "process_predictions": _flag,
    "smoothness": _integer(1, 10),
    "quiescence": _integer(0, 100),
}

DEFAULT = Config()
assert tuple(_RULES) == tuple(field.name for field in fields(Config)), "every value has its rule"

"""Section 8: configuration."""

from __future__ import annotations

import math

import pytest

from kato_node.domain.config import DEFAULT, RANKABLE, from_environment
from kato_node.domain.errors import GeneNotFound, ValidationFailed

DEFAULTS: dict[str, object] = {
    "max_pattern_length": 0,
    "stm_mode": "CLEAR",
    "persistence": 5,
    "recall_threshold": 0.1,
    "max_predictions": 100,
    "min_prediction_symbols": 2,
    "rank_sort_algo": "potential",
    "sort_symbols": True,
    "vector_neighbors": 0,
    "vector_distance_max": None,
    "process_predictions": True,
    "smoothness": 3,
    "quiescence": 3,
}
GOOD: dict[str, list[object]] = {
    "max_pattern_length": [0, 1, 2**63 - 1],
    "stm_mode": ["CLEAR", "ROLLING"],
    "persistence": [1, 100],
    "recall_threshold": [0, 1, 0.0, 0.5, 1.0],
    "max_predictions": [1, 10_000],
    "min_prediction_symbols": [1, 2],
    "rank_sort_algo": list(RANKABLE),
    "sort_symbols": [True, False],
    "vector_neighbors": [0, 100],
    "vector_distance_max": [None, 1, 5e-324, 1e308],
    "process_predictions": [True, False],
    "smoothness": [1, 10],
    "quiescence": [0, 100],
}
BAD: dict[str, list[object]] = {
    "max_pattern_length": [-1, 5.0, True, "5", None, 2**63],
    "stm_mode": ["clear", "", None, 1, ["CLEAR"]],
    "persistence": [0, 101, 5.0, True],
    "recall_threshold": [-0.1, 1.1, math.nan, math.inf, True, "0.1", None],
    "max_predictions": [0, 10_001, 100.0, True],
    "min_prediction_symbols": [0, 3, 1.0, True],
    "rank_sort_algo": ["name", "emotives", "type", "", None, 1],
    "sort_symbols": [1, 0, "true", None],
    "vector_neighbors": [-1, 101, 1.0, False],
    "vector_distance_max": [0, 0.0, -1, math.nan, math.inf, True, "1", 10**400],
    "process_predictions": [1, None],
    "smoothness": [0, 11, 3.0],
    "quiescence": [-1, 101, True],
}


def test_defaults() -> None:
    """Every value has the default that the page gives."""
    assert DEFAULT.as_dict() == DEFAULTS


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_good_values(name: str, value: object) -> None:
    """A value in range is taken and returned; nothing else changes."""
    config = DEFAULT.updated({name: value})
    assert config.get(name) == value
    assert config.as_dict() == DEFAULTS | {name: value}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values(name: str, value: object) -> None:
    """JSON types, no coercion, and ranges: anything else is an error that names the value's name."""
    with pytest.raises(ValidationFailed) as failure:
        DEFAULT.updated({name: value})
    assert [field for field, _ in failure.value.errors] == [name]


@pytest.mark.parametrize("name", ["recall_threshold", "vector_distance_max"])
def test_ints_are_floats(name: str) -> None:
    """An int is taken for a float, and kept as one."""
    assert repr(DEFAULT.updated({name: 1}).get(name)) == "1.0"
    assert repr(DEFAULT.updated({"recall_threshold": -0.0}).recall_threshold) == "0.0"


def test_an_update_applies_whole_or_not_at_all() -> None:
    """One unknown name or bad value refuses the whole update, and every mistake is named."""
    with pytest.raises(ValidationFailed) as failure:
        DEFAULT.updated({"persistence": 7, "nonsense": 1, "smoothness": 0})
    assert [field for field, _ in failure.value.errors] == ["nonsense", "smoothness"]
    assert DEFAULT.persistence == 5
    assert DEFAULT.updated({"persistence": 7, "quiescence": 0}).as_dict() == DEFAULTS | {
        "persistence": 7,
        "quiescence": 0,
    }


def test_errors_can_be_sent() -> None:
    """A name with a lone surrogate is escaped in its error, and of many errors the first twenty are listed."""
    with pytest.raises(ValidationFailed) as failure:
        DEFAULT.updated({"\ud800": 1})
    assert failure.value.errors[0][0] == "\\ud800"
    with pytest.raises(ValidationFailed) as failure:
        DEFAULT.updated({f"unknown_{i}": 1 for i in range(100)})
    assert len(failure.value.errors) == 20


def test_a_threshold_of_zero_is_set() -> None:
    """0.0 is a value like any other, not unset."""
    assert DEFAULT.updated({"recall_threshold": 0.0}).recall_threshold == 0.0


def test_unknown_gene() -> None:
    """An unknown name is GENE_NOT_FOUND."""
    with pytest.raises(GeneNotFound) as failure:
        DEFAULT.get("updated")
    assert failure.value.code == "GENE_NOT_FOUND"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MAX_PATTERN_LENGTH", "12", 12),
        ("STM_MODE", "ROLLING", "ROLLING"),
        ("RECALL_THRESHOLD", "0.25", 0.25),
        ("RECALL_THRESHOLD", ".5", 0.5),
        ("RECALL_THRESHOLD", "0", 0.0),
        ("VECTOR_DISTANCE_MAX", "1e3", 1000.0),
        ("VECTOR_DISTANCE_MAX", "", None),
        ("SORT_SYMBOLS", "false", False),
        ("PROCESS_PREDICTIONS", "true", True),
        ("RANK_SORT_ALGO", "similarity", "similarity"),
        ("PERSISTENCE", "", 5),
    ],
)
def test_environment(name: str, text: str, value: object) -> None:
    """Environment: decimal text, true or false, names in capitals; empty is unset."""
    assert from_environment({name: text, "PATH": "/bin", "persistence": "x"}).get(name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MAX_PATTERN_LENGTH", "5.0"),
        ("MAX_PATTERN_LENGTH", "0x10"),
        ("MAX_PATTERN_LENGTH", "1_000"),
        ("MAX_PATTERN_LENGTH", "٣"),
        ("MAX_PATTERN_LENGTH", "1" * 5000),
        ("PERSISTENCE", "true"),
        ("RECALL_THRESHOLD", "nan"),
        ("RECALL_THRESHOLD", " 0.1"),
        ("VECTOR_DISTANCE_MAX", "inf"),
        ("VECTOR_DISTANCE_MAX", "1e999"),
        ("SORT_SYMBOLS", "True"),
        ("SORT_SYMBOLS", "1"),
        ("STM_MODE", "rolling"),
    ],
)
def test_bad_environment(name: str, text: str) -> None:
    """A bad text is an error that names the variable."""
    with pytest.raises(ValidationFailed) as failure:
        from_environment({name: text, "SMOOTHNESS": "4"})
    assert [field for field, _ in failure.value.errors] == [name]

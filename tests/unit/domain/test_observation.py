"""Section 2: what an observation may be."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kato_node.domain.errors import ValidationFailed
from kato_node.domain.limits import Limits
from kato_node.domain.observation import Observation, validated
from kato_node.domain.state import Json

SMALL = Limits(symbols_per_event_max=3, symbol_bytes_max=4, vector_length_max=2, metadata_depth_max=3)


def rejected(limits: Limits = Limits(), **fields: object) -> list[str]:  # noqa: B008 - a frozen value
    """Return the fields that an observation is rejected for."""
    with pytest.raises(ValidationFailed) as failure:
        validated(replace(Observation(), **fields), limits=limits)  # type: ignore[arg-type]
    assert failure.value.code == "VALIDATION_ERROR"
    listed = failure.value.details["errors"]
    assert isinstance(listed, list)
    assert all(item.keys() == {"field", "message"} for item in listed)
    return [item["field"] for item in listed]


def test_all_fields_are_optional() -> None:
    """An observation of nothing is valid."""
    assert validated(Observation()) == Observation(strings=(), vectors=())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1.1e100, -1.1e100, 10**101, True, None, "1", [1]])
def test_numbers_are_finite_bounded_and_not_booleans(number: object) -> None:
    """NaN, infinity, numbers beyond ±1e100, booleans and other types are no numbers, in vectors and emotives."""
    assert rejected(vectors=[[1.0, number]]) == ["vectors.0.1"]
    assert rejected(emotives={"joy": number}) == ["emotives.joy"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1.1e100])
@pytest.mark.parametrize("nested", [lambda x: x, lambda x: [x], lambda x: {"a": [1, {"b": x}]}])
def test_metadata_holds_finite_numbers_at_any_depth(number: float, nested: object) -> None:
    """NaN, infinity and numbers beyond ±1e100 are rejected at any depth of metadata."""
    assert callable(nested)
    assert rejected(metadata={"k": nested(number)}) == ["metadata.k"]


def test_bounds_of_numbers_are_inclusive() -> None:
    """±1e100 and the 64-bit integers' ends are valid."""
    ends = [2**63 - 1, -(2**63)]
    valid = validated(Observation(vectors=[[1e100, -1e100]], emotives={"a": 10**100}, metadata={"k": ends}))
    assert valid.vectors == ((1e100, -1e100),)
    assert valid.emotives == {"a": 1e100}
    assert valid.metadata == {"k": ends}


@pytest.mark.parametrize("integer", [2**63, -(2**63) - 1, 10**400])
def test_metadata_integers_have_at_most_64_bits(integer: int) -> None:
    """An integer beyond 64 bits is rejected at any depth of metadata."""
    assert rejected(metadata={"k": integer}) == ["metadata.k"]
    assert rejected(metadata={"k": {"a": [integer]}}) == ["metadata.k"]


def test_metadata_takes_any_json() -> None:
    """Metadata values are any JSON, kept as decoded."""
    value: Json = {"n": None, "b": True, "i": 1, "f": 1.5, "s": "é", "l": [1, [2, {}]], "": {"$x.y": 1}}
    assert validated(Observation(metadata={"k": value})).metadata == {"k": value}


@pytest.mark.parametrize("symbol", [1, None, True, ["a"], b"a", "\ud800", "a\udfffb"])
def test_symbols_are_strings_without_lone_surrogates(symbol: object) -> None:
    """A symbol that is no string, or has a lone surrogate, is rejected."""
    assert rejected(strings=["a", symbol]) == ["strings.1"]


def test_text_without_lone_surrogates_everywhere() -> None:
    """Lone surrogates are rejected in keys, nested keys, values and the unique_id too."""
    assert len(rejected(emotives={"\ud800": 1.0})) >= 1
    assert len(rejected(metadata={"\ud800": 1})) >= 1
    assert rejected(metadata={"k": "\ud800"}) == ["metadata.k"]
    assert rejected(metadata={"k": {"\ud800": 1}}) == ["metadata.k"]
    assert rejected(unique_id="\ud800") == ["unique_id"]


def test_a_unique_id_is_a_name() -> None:
    """A unique_id has at most 256 characters."""
    validated(Observation(unique_id="é" * 256), limits=Limits())
    assert rejected(unique_id="é" * 257) == ["unique_id"]


def test_odd_symbols_are_fine() -> None:
    """The empty symbol, NUL, whitespace and any plane of Unicode are symbols, unchanged."""
    odd = ("", "\0", " a ", "é", "e\u0301", "\U0001f600", "$", "a.b")
    assert validated(Observation(strings=odd)).strings == odd


def test_vectors_are_not_empty_and_of_one_length() -> None:
    """Vectors that are empty or of unequal length within one observation are rejected."""
    assert rejected(vectors=[[]]) == ["vectors.0"]
    assert rejected(vectors=[[1.0], [1.0, 2.0]]) == ["vectors"]


@pytest.mark.parametrize("key", ["", "$set", "a.b", "a\0b"])
def test_top_level_keys_are_storable(key: str) -> None:
    """Top-level emotive and metadata keys that are empty, start with $, or contain . or NUL are rejected."""
    assert rejected(emotives={key: 1.0}) == [f"emotives.{key}"]
    assert rejected(metadata={key: 1.0}) == [f"metadata.{key}"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strings", "abc"),
        ("strings", None),
        ("strings", {"a": 1}),
        ("vectors", 1.0),
        ("vectors", [1.0]),
        ("emotives", []),
        ("metadata", None),
        ("unique_id", 5),
    ],
)
def test_fields_have_their_types(field: str, value: object) -> None:
    """A field of another JSON type is rejected, naming the field."""
    assert rejected(**{field: value})[0].startswith(field)  # type: ignore[arg-type]


def test_limits_are_exact() -> None:
    """What reaches a limit is valid, one more is rejected; symbols count in UTF-8 bytes."""
    nested = [[1]]
    full = Observation(strings=["aaaa", "éé", ""], vectors=[[1, 2]], metadata={"k": nested})
    assert validated(full, limits=SMALL).strings == ("aaaa", "éé", "")
    assert rejected(SMALL, strings=["a"] * 4) == ["strings"]
    assert rejected(SMALL, strings=["aaaaa", "ééa"]) == ["strings.0", "strings.1"]
    assert rejected(SMALL, vectors=[[1, 2, 3]]) == ["vectors.0"]
    assert rejected(SMALL, metadata={"k": [nested]}) == ["metadata.k"]


def test_every_error_is_named_up_to_twenty() -> None:
    """All errors are reported together, with the prefix of their item, the first twenty of many."""
    assert rejected(strings=[1], vectors=[[]], emotives={"": True}, metadata={"k": math.nan}, unique_id=1) == [
        "strings.0",
        "vectors.0",
        "emotives.",
        "emotives.",
        "metadata.k",
        "unique_id",
    ]
    assert len(rejected(strings=[1] * 1000)) == 20
    with pytest.raises(ValidationFailed, match=r"observations\.3\.strings\.0"):
        validated(Observation(strings=["\ud800"]), prefix="observations.3.")


def test_negative_zero_becomes_zero() -> None:
    """-0.0 is 0.0 in vectors, emotives and at any depth of metadata."""
    valid = validated(Observation(vectors=[[-0.0]], emotives={"a": -0.0}, metadata={"k": [-0.0, {"x": -0.0}]}))
    assert "-0.0" not in repr(valid)


def test_the_observation_is_a_copy() -> None:
    """Changing what the caller gave changes nothing of the observation."""
    inner = [1]
    strings, emotives, metadata = ["a"], {"j": 1.0}, {"k": inner}
    valid = validated(Observation(strings=strings, emotives=emotives, metadata=metadata))
    strings.append("b")
    emotives["x"] = 2.0
    inner.append(2)
    assert valid == Observation(strings=("a",), vectors=(), emotives={"j": 1.0}, metadata={"k": [1]})

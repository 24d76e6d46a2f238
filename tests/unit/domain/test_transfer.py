"""Lines of an export, and what importing them changes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kato_node.domain.edit import FREQUENCY_MAX
from kato_node.domain.errors import DomainError, ValidationFailed, VectorDimensionMismatch
from kato_node.domain.learn import Pattern, display_name, pattern_name
from kato_node.domain.limits import LIMITS
from kato_node.domain.ltm import UNCHANGED, Ltm
from kato_node.domain.state import Json
from kato_node.domain.transfer import IMPORTS_MAX, Record, announced, header, imported_into, line, validated_record
from kato_node.domain.vectors import symbol_of
from tests.unit.domain.session import events

VECTOR = (0.1 + 0.2, 2e100)
EVENTS = (("", "é", "a\nb", symbol_of(VECTOR)), ("nul\0",))
PATTERN = Pattern(
    name=pattern_name(EVENTS),
    events=EVENTS,
    frequency=3,
    emotives=({"joy": 0.1 + 0.2}, {"fear": -1e100, "joy": 5e-324}),
    metadata={"tag": ("1", "None"), "ä b": ("x",)},
)
HEADER = header(export_id="0f", processor_id="p", patterns=1, dimension=2, created_at="2026-01-01T00:00:00+00:00")


def record(text: str = "a b", **fields: object) -> Record:
    """Return the record of a pattern with these events."""
    pattern = Pattern(name=pattern_name(events(text)), events=events(text), frequency=2, metadata={})
    return Record(pattern=replace(pattern, **fields), vectors=())  # type: ignore[arg-type]


def imported(ltm: Ltm, *records: Record, import_id: str = "i", persistence: int = 5) -> Ltm:
    """Import the records into the LTM."""
    for item in records:
        ltm.apply(imported_into(ltm, item, import_id=import_id, persistence=persistence))
    return ltm


def sent(**fields: Json) -> object:
    """Return what a line decodes to, with some fields changed."""
    decoded: dict[str, Json] = json.loads(json.dumps(line(PATTERN, (VECTOR,))))
    return decoded | fields


def test_a_line_comes_back_bit_for_bit() -> None:
    """What an export writes is what an import reads, vectors beyond what may be observed included."""
    assert validated_record(sent()) == Record(pattern=PATTERN, vectors=(VECTOR,))
    ltm = imported(Ltm(), validated_record(sent()))
    assert ltm.get(PATTERN.name) == replace(PATTERN, imports=("i",))
    assert (dict(ltm.vectors), ltm.dimension) == ({symbol_of(VECTOR): VECTOR}, 2)


def test_a_header_says_how_many_patterns_follow() -> None:
    """An export's header announces its patterns, whatever note was added; anything else is refused by its field."""
    assert announced(json.loads(json.dumps(HEADER))) == 1
    assert announced({**HEADER, "note": "again"}) == 1
    for change, named in (
        ({"format": "x"}, "format"),
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"patterns": -1}, "patterns"),
        ({"patterns": None}, "patterns"),
        ({"x": 1}, "x"),
    ):
        with pytest.raises(ValidationFailed) as refused:
            announced({**HEADER, **change})
        assert refused.value.errors[0][0] == named
    with pytest.raises(ValidationFailed):
        announced([HEADER])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": display_name("0" * 40)}, "name"),
        ({"name": 7}, "name"),
        ({"pattern_data": [["a", "b"], []]}, "pattern_data.1"),
        ({"pattern_data": [["a"]], "name": pattern_name((("a",),)), "vectors": []}, "pattern_data"),
        ({"pattern_data": "ab"}, "pattern_data"),
        ({"pattern_data": [["a", 1]]}, "pattern_data.0.1"),
        ({"pattern_data": [["a"]] * 10_001}, "pattern_data"),
        ({"frequency": 0}, "frequency"),
        ({"emotives": [1]}, "emotives.0"),
        ({"metadata": {"k": "x"}}, "metadata.k"),
        ({"vectors": [[1.0]]}, "vectors"),
        ({"vectors": [[]]}, "vectors.0"),
        ({"vectors": [[True]]}, "vectors.0"),
        ({"vectors": [[10**400]]}, "vectors.0"),
        ({"length": 5}, "length"),
    ],
)
def test_a_bad_line_is_refused_by_the_field_that_is_wrong(change: dict[str, Json], named: str) -> None:
    """A pattern must be one that could have been learned under its name, with vectors that it is made of."""
    with pytest.raises(ValidationFailed) as refused:
        validated_record(sent(**change))
    assert refused.value.errors[0][0] == named


def test_a_line_that_is_no_object_is_refused() -> None:
    """A list or a number is no pattern."""
    values: list[object] = [[], 7, None]
    for value in values:
        with pytest.raises(ValidationFailed):
            validated_record(value)


def test_a_known_pattern_is_merged_as_if_it_had_been_learned_more_often() -> None:
    """Frequencies add up, the newest emotives stay as far as persistence goes, metadata is united."""
    old = record(emotives=({"j": 1.0}, {"j": 2.0}), metadata={"k": ("a",), "l": ("x",)})
    new = record(frequency=5, emotives=({"j": 3.0}, {"j": 4.0}), metadata={"k": ("b", "a")})
    ltm = imported(imported(Ltm(), old), new, import_id="other", persistence=3)
    merged = ltm.get(old.pattern.name)
    assert merged is not None
    assert (merged.frequency, merged.emotives) == (7, ({"j": 2.0}, {"j": 3.0}, {"j": 4.0}))
    assert (merged.metadata, merged.imports) == ({"k": ("a", "b"), "l": ("x",)}, ("i", "other"))


def test_a_line_applies_once_for_each_import() -> None:
    """The same import changes a pattern once, however often its line is sent; another import changes it again."""
    ltm = imported(Ltm(), record(), record("c d"))
    assert imported_into(ltm, record(), import_id="i", persistence=5) is UNCHANGED
    imported(ltm, record(), import_id="j")
    pattern = ltm.get(record().pattern.name)
    assert pattern is not None
    assert pattern.frequency == 4
    for number in range(2 * IMPORTS_MAX):
        imported(ltm, record(frequency=1), import_id=str(number))
    pattern = ltm.get(record().pattern.name)
    assert pattern is not None
    assert len(pattern.imports) == IMPORTS_MAX


def test_what_does_not_fit_the_memory_is_refused() -> None:
    """Vectors of another length, a frequency past the greatest, and a pattern too large leave the LTM as it is."""
    ltm = imported(Ltm(), validated_record(sent()), record())
    stm = (("x", symbol_of((1.0,))),)
    other = Record(pattern=Pattern(name=pattern_name(stm), events=stm, frequency=1, metadata={}), vectors=((1.0,),))
    with pytest.raises(VectorDimensionMismatch):
        imported_into(ltm, other, import_id="j", persistence=5)
    with pytest.raises(ValidationFailed):
        imported_into(ltm, record(frequency=FREQUENCY_MAX), import_id="j", persistence=5)
    with pytest.raises(DomainError, match="more than 10"):
        imported_into(
            Ltm(), validated_record(sent()), import_id="j", persistence=5, limits=replace(LIMITS, pattern_bytes_max=10)
        )

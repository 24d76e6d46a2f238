"""Section 3: names, frequencies, emotives and metadata of patterns."""

from __future__ import annotations

import hashlib
import json

import pytest

from kato_node.domain.errors import MemoryTooLarge
from kato_node.domain.learn import Pattern, bare_name, display_name, pattern_name
from kato_node.domain.limits import Limits
from kato_node.domain.state import Json, Stm
from tests.unit.domain.session import Session, events

NAMES: list[tuple[Stm, str]] = [
    ((("a",), ("b",)), "76d7efca2e96cb5eeddf4e06ac96a0f424630135"),
    ((("a", "b"),), "395314cc2f2880a00c3e6e11f1e02d8b8c45a0e4"),
    ((("a",), ("b",), ("c",)), "b98534b32c1d7489d4ce1a48724aa65aeecbdba9"),
    ((("it's",), ("x",)), "271339250f33fe945c5a24f7deb31f02ce16ddb5"),
    ((("é", "日本"),), "d2c60f225b60150dac69b32c4eb1fc4cc3c32fca"),
    ((("a\nb",), ("c",)), "973b467d6bb21ecf33a133c67415be996691dc02"),
    ((("a\u200bb",), ("c",)), "901c67661ee802a1ff5ff97f6f2748f920340877"),
]


def learned_pattern(session: Session, name: str | None) -> Pattern:
    """Return the pattern that a learn named."""
    assert name is not None
    pattern = session.ltm.get(bare_name(name))
    assert pattern is not None
    return pattern


@pytest.mark.parametrize(("pattern", "name"), NAMES)
def test_names(pattern: Stm, name: str) -> None:
    """A pattern has the name that the page's table gives."""
    assert pattern_name(pattern) == name
    session = Session()
    session.observe_all(pattern)
    assert session.learn() == f"PTRN|{name}"


@pytest.mark.parametrize("code", [*range(0x80), *(ord(c) for c in "é\x80\x9f\xa0\xad\u200b\u2028\ue000日😀\U0010ffff")])
@pytest.mark.parametrize("around", ["{}", "a{}b", "'{}", '"{}', "'{}\""])
def test_names_quote_as_repr_below_0080(code: int, around: str) -> None:
    """Symbols are quoted as repr does for ASCII; every character from U+0080 up stands as it is."""
    symbol = around.format(chr(code))
    shown = repr(symbol) if code < 0x80 else repr(around.format("\x01")).replace("\\x01", chr(code))
    assert pattern_name(((symbol, "x"),)) == hashlib.sha1(f"[[{shown}, 'x']]".encode()).hexdigest()


def test_ids_with_and_without_prefix() -> None:
    """Names are shown with PTRN|, and ids accepted with or without it."""
    assert display_name("76d7") == "PTRN|76d7"
    assert bare_name("PTRN|76d7") == bare_name("76d7") == "76d7"


def test_two_symbols_in_one_event_are_learned() -> None:
    """[['a','b']] is learned: symbols count, not events."""
    session = Session()
    session.observe("a", "b")
    assert session.learn() == "PTRN|395314cc2f2880a00c3e6e11f1e02d8b8c45a0e4"


def test_fewer_than_two_symbols_are_not_learned() -> None:
    """[['a']] is not learned: the name is "", and the STM and what travels with it are emptied all the same."""
    session = Session()
    session.observe("a", vectors=[], emotives={"x": 1}, metadata={"k": 1})
    percept = session.state.percept
    assert session.learn() == ""
    assert (session.state.stm, session.state.emotives, session.state.metadata) == ((), (), ())
    assert (session.state.time, session.state.percept) == (1, percept)
    assert len(session.ltm) == 0
    assert session.learn() == ""


def test_after_a_learn_time_config_and_percept_stay() -> None:
    """After a learn STM, emotives, metadata and unlearned vectors are empty; time, config and percept stay."""
    session = Session(persistence=7)
    session.observe("a", vectors=[[1, 2]], emotives={"x": 1}, metadata={"k": 1})
    before = session.state
    session.learn()
    after = session.state
    assert (after.stm, after.event_times, after.emotives, after.metadata, after.vectors) == ((), (), (), (), ())
    assert (after.time, after.percept, after.stm_bytes, after.carried_bytes) == (before.time, before.percept, 0, 0)
    assert session.config.persistence == 7


def test_frequency_counts_learns() -> None:
    """A new name has frequency 1, a known one is counted up; emotives, metadata and time never change a name."""
    session = Session()
    names = set()
    for i in range(3):
        session.observe("a", emotives={"x": i}, metadata={"k": i})
        session.observe("b")
        names.add(session.learn())
    (name,) = names
    pattern = learned_pattern(session, name)
    assert (pattern.frequency, pattern.events, pattern.metadata) == (3, events("a b"), {"k": ("0", "1", "2")})


def test_the_emotives_window_keeps_the_newest() -> None:
    """Persistence 3, [{j:4},{j:1},{j:0,k:2}], then [{j:.5}]: window [{j:1},{j:0,k:2},{j:.5}], shown {j:.5, k:2}."""
    session = Session(persistence=3)
    session.observe("a", emotives={"j": 4})
    session.observe(emotives={"j": 1})
    session.observe("b", emotives={"j": 0, "k": 2})
    session.learn()
    session.observe("a")
    session.observe("b", emotives={"j": 0.5})
    pattern = learned_pattern(session, session.learn())
    assert pattern.emotives == ({"j": 1.0}, {"j": 0.0, "k": 2.0}, {"j": 0.5})
    session.observe_all(events("a b"))
    (prediction,) = session.predict().predictions
    assert prediction.as_dict()["emotives"] == {"j": 0.5, "k": 2.0}


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["1", '"1"'], ("1",)),
        (["true", "null", "[1, 2]"], ("None", "True", "[1, 2]")),
        (['{"a": "it\'s", "b": [null, 1.0]}'], ("{'a': \"it's\", 'b': [None, 1.0]}",)),
        (["1.0", "1", "1e2", "-0.0"], ("0.0", "1", "1.0", "100.0")),
        (['"b"', '"a"', '"b"', '"é"', '""'], ("", "a", "b", "é")),
    ],
)
def test_metadata_folds_into_sorted_distinct_texts(values: list[str], texts: tuple[str, ...]) -> None:
    """Metadata becomes key -> sorted list of the distinct values, each as `str` of the decoded JSON value."""
    session = Session()
    for value in values:
        decoded: Json = json.loads(value)
        session.observe("a", metadata={"k": decoded})
        session.observe("b")
        name = session.learn()
    assert learned_pattern(session, name).metadata == {"k": texts}


def test_metadata_is_a_union_with_what_is_stored() -> None:
    """Keys and values of a later learn join those that are stored."""
    session = Session()
    observed: list[dict[str, Json]] = [{"k": "x", "l": 1}, {"k": "w"}, {}]
    for metadata in observed:
        session.observe("a", "b", metadata=metadata)
        name = session.learn()
    assert learned_pattern(session, name).metadata == {"k": ("w", "x"), "l": ("1",)}


def test_a_pattern_has_a_limit() -> None:
    """A pattern whose stored metadata would outgrow the limit is MEMORY_TOO_LARGE; nothing is applied."""
    session = Session(limits=Limits(pattern_bytes_max=150))
    session.observe("a", "b", metadata={"k": "x" * 60})
    session.learn()
    session.observe("a", "b", metadata={"k": "y" * 60})
    before, version = session.state, session.ltm.version
    with pytest.raises(MemoryTooLarge, match="clear-stm gives up"):
        session.learn()
    assert (session.state, session.ltm.version) == (before, version)

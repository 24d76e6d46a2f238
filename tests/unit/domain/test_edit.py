"""Correcting and deleting patterns; statistics of symbols; lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kato_node.domain.edit import FREQUENCY_MAX, deleted, edited, validated_edit
from kato_node.domain.errors import MemoryTooLarge, PatternNotFound, ValidationFailed
from kato_node.domain.learn import Episode, Pattern, display_name, pattern_name
from kato_node.domain.limits import LIMITS
from kato_node.domain.ltm import CLEARED, Ltm, LtmChange, Staged, learned_into
from kato_node.domain.survey import affinities, listing, page, symbol_statistics
from kato_node.domain.vectors import symbol_of
from tests.unit.domain.session import events, learned

ONE, TWO = (1.0, 0.0), (0.0, 1.0)


def name_of(text: str) -> str:
    """Return the name of the pattern with these events."""
    return pattern_name(events(text))


def with_vectors(*groups: tuple[tuple[float, ...], ...]) -> Ltm:
    """Return an LTM that has learned a pattern of each group of vectors, one event each."""
    ltm = Ltm()
    for vectors in groups:
        ltm.apply(learned_into(ltm, episode(*vectors)))
    return ltm


def episode(*vectors: tuple[float, ...]) -> Episode:
    """Return what a learn of these vectors hands over."""
    stm = tuple((symbol_of(vector), "x") for vector in vectors)
    return Episode(name=pattern_name(stm), events=stm, emotives=(), metadata=(), vectors=vectors, persistence=5)


def test_an_edit_changes_what_it_names_and_nothing_else() -> None:
    """Each field given replaces the pattern's; the others, its name and its events stay; an empty edit changes none."""
    ltm = learned("a b", "a b", "c d")
    before = ltm.get(name_of("a b"))
    assert before is not None
    change = edited(ltm, name_of("a b"), validated_edit({"frequency": 7, "metadata": {"k": ["b", "a", "b"]}}))
    assert change == LtmChange(put=(replace(before, frequency=7, metadata={"k": ("a", "b")}),))
    window = edited(ltm, display_name(name_of("a b")), validated_edit({"emotives": [{"joy": 1}, {}]}))
    assert window.put[0].emotives == ({"joy": 1.0}, {})
    assert edited(ltm, name_of("a b"), validated_edit({})) == LtmChange(put=(before,))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"frequency": 0}, "frequency"),
        ({"frequency": True}, "frequency"),
        ({"frequency": 1.0}, "frequency"),
        ({"frequency": None}, "frequency"),
        ({"frequency": FREQUENCY_MAX + 1}, "frequency"),
        ({"emotives": {"joy": 1}}, "emotives"),
        ({"emotives": [{"joy": 1}] * 101}, "emotives"),
        ({"emotives": [{"joy": "1"}]}, "emotives.0.joy"),
        ({"emotives": [{"a.b": 1}]}, "emotives.0.a.b"),
        ({"metadata": {"k": "text"}}, "metadata.k"),
        ({"metadata": {"k": [1]}}, "metadata.k.0"),
        ({"metadata": {"$k": []}}, "metadata.$k"),
        ({"metadata": []}, "metadata"),
        ({"events": [["a"]]}, "events"),
    ],
)
def test_a_bad_edit_is_refused_by_the_field_that_is_wrong(fields: dict[str, object], named: str) -> None:
    """Frequencies are integers of 1 or more, windows lists of at most 100, metadata lists of texts; nothing else is."""
    with pytest.raises(ValidationFailed) as refused:
        validated_edit(fields)
    assert refused.value.errors[0][0] == named


def test_the_edges_of_an_edit_are_allowed() -> None:
    """The least and the greatest frequency, a full window, and nothing at all are values like others."""
    assert validated_edit({"frequency": 1}).frequency == 1
    assert validated_edit({"frequency": FREQUENCY_MAX}).frequency == FREQUENCY_MAX
    assert len(validated_edit({"emotives": [{"joy": 1}] * 100}).emotives or ()) == 100
    assert validated_edit({"emotives": [], "metadata": {}}).metadata == {}


def test_an_edit_of_what_is_not_there_or_would_be_too_large_is_refused() -> None:
    """An unknown pattern is not found; one that its new metadata would make too large stays as it is."""
    ltm = learned("a b")
    with pytest.raises(PatternNotFound):
        edited(ltm, "unknown", validated_edit({}))
    with pytest.raises(PatternNotFound):
        deleted(ltm, "unknown")
    with pytest.raises(MemoryTooLarge):
        edited(
            ltm,
            name_of("a b"),
            validated_edit({"metadata": {"k": ["x" * 100]}}),
            limits=replace(LIMITS, pattern_bytes_max=100),
        )


def test_a_deleted_pattern_takes_its_vectors_along_but_not_those_of_others() -> None:
    """A vector goes with the last pattern that contains its symbol, the dimension with the last vector."""
    ltm = with_vectors((ONE, TWO), (TWO, TWO))
    first = deleted(ltm, episode(ONE, TWO).name)
    assert (first.forgotten, first.dimensionless) == ((symbol_of(ONE),), False)
    ltm.apply(first)
    assert (dict(ltm.vectors), ltm.dimension) == ({symbol_of(TWO): TWO}, 2)
    ltm.apply(deleted(ltm, episode(TWO, TWO).name))
    assert (dict(ltm.vectors), ltm.dimension, len(ltm)) == ({}, None, 0)


def test_what_is_staged_counts_a_vectors_patterns_as_the_ltm_will() -> None:
    """Deletions that wait together forget a vector exactly once, as they would one after the other."""
    ltm = with_vectors((ONE, TWO), (TWO, TWO))
    staged = Staged(ltm)
    decisions: list[Callable[[], LtmChange]] = [
        lambda: deleted(staged, episode(TWO, TWO).name),
        lambda: learned_into(staged, episode(TWO, ONE)),
        lambda: deleted(staged, episode(ONE, TWO).name),
        lambda: deleted(staged, episode(TWO, ONE).name),
        lambda: learned_into(staged, episode((5.0,), (6.0,))),
    ]
    changes = []
    for decide in decisions:
        changes.append(decide())
        staged.apply(changes[-1])
    for change in changes:
        ltm.apply(change)
    assert (dict(ltm.vectors), ltm.dimension) == ({symbol_of((5.0,)): (5.0,), symbol_of((6.0,)): (6.0,)}, 1)
    assert (dict(staged.vectors), staged.dimension) == (dict(ltm.vectors), 1)
    staged = Staged(ltm)
    assert staged.vector_uses(symbol_of((5.0,))) == ltm.vector_uses(symbol_of((5.0,))) == 1
    staged.apply(CLEARED)
    assert staged.vector_uses(symbol_of((5.0,))) == 0


def test_symbols_are_counted_over_all_patterns() -> None:
    """A symbol's frequency is pattern frequency times occurrences, summed; its members are the patterns with it."""
    ltm = learned("a b", "a b", "[a a] c", "c d")
    ltm.apply(deleted(ltm, name_of("c d")))
    statistics = symbol_statistics(ltm.view())
    assert {symbol: (one.frequency, one.pattern_member_frequency) for symbol, one in statistics.items()} == {
        "a": (4, 2),
        "b": (2, 1),
        "c": (1, 1),
    }
    assert list(statistics) == sorted(statistics)


def test_affinities_add_up_what_the_patterns_mean() -> None:
    """A symbol's affinity is the sum, over the patterns that contain it, of the mean of each pattern's window."""
    ltm = learned("a b", "b [b c]", "c d")
    ltm.apply(edited(ltm, name_of("a b"), validated_edit({"emotives": [{"joy": 1}, {"joy": 0, "fear": -1}]})))
    ltm.apply(edited(ltm, name_of("b [b c]"), validated_edit({"emotives": [{"joy": 2}]})))
    assert affinities(ltm.view()) == {
        "a": {"fear": -1.0, "joy": 0.5},
        "b": {"fear": -1.0, "joy": 2.5},
        "c": {"joy": 2.0},
        "d": {},
    }


def test_a_listing_is_by_name_and_its_pages_hold_each_pattern_once() -> None:
    """Pages of any size put together are the whole list, which may be of the patterns with one symbol."""
    ltm = learned("a b", "b c", "c d", "d b", "b e")
    ltm.apply(deleted(ltm, name_of("d b")))
    expected = sorted(map(name_of, ("a b", "b c", "b e")))
    patterns = listing(ltm.view(), contains="b")
    for limit in (1, 2, 3, 4):
        found: list[Pattern] = []
        after: str | None = ""
        while after is not None:
            part = page(patterns, after=after, limit=limit)
            assert part.total == 3
            found.extend(part.patterns)
            after = part.after
        assert [pattern.name for pattern in found] == expected
    assert [pattern.name for pattern in listing(ltm.view())] == sorted([*expected, name_of("c d")])
    assert page(listing(ltm.view(), contains="unknown"), after="", limit=5).total == 0

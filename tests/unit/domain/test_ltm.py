"""The LTM: changes, views and what is staged on top."""

from __future__ import annotations

from kato_node.domain.config import DEFAULT
from kato_node.domain.learn import Pattern, pattern_name
from kato_node.domain.ltm import CLEARED, Ltm, LtmChange, LtmView, Staged
from kato_node.domain.predict import Ranking, predict
from tests.unit.domain.session import events, learned


def pattern(text: str, frequency: int = 1) -> Pattern:
    """Return a pattern as a store would load it."""
    return Pattern(name=pattern_name(events(text)), events=events(text), frequency=frequency, metadata={})


def put(*patterns: Pattern) -> LtmChange:
    """Return the change that puts these patterns."""
    return LtmChange(put=patterns)


def answer(view: LtmView) -> Ranking:
    """Return everything that a view holds, as predictions on an STM that shares symbols with all of it."""
    return predict(events("a b"), config=DEFAULT.updated({"recall_threshold": 0}), ltm=view)


def test_a_view_is_as_of_its_version() -> None:
    """A view answers the same while patterns are added, learned again, deleted, or everything is cleared."""
    ltm = learned("a b", "a b c", "[b x] c")
    view = ltm.view()
    before = answer(view)
    changes = [
        put(pattern("b c d"), pattern("a y z")),
        put(pattern("a b", frequency=9)),
        LtmChange(deleted=(pattern("a b c").name,)),
        put(pattern("a b c d e")),
        LtmChange(deleted=(pattern("b c d").name, pattern("a y z").name, pattern("a b").name)),
        CLEARED,
        put(pattern("a a")),
    ]
    for change in changes:
        ltm.apply(change)
        assert answer(view) == before
        assert ltm.view() is ltm.view()
        assert answer(ltm.view()) != before


def test_deleting_is_as_if_never_learned() -> None:
    """After deletions, however many, every answer is that of an LTM which never had the deleted patterns."""
    ltm = learned("a b", "x a", "a b c", "b c", "y b", "z a b")
    for gone in ("x a", "y b", "z a b", "a b"):
        ltm.apply(LtmChange(deleted=(pattern(gone).name,)))
        assert ltm.get(pattern(gone).name) is None
    assert len(ltm) == 2
    assert answer(ltm.view()) == answer(learned("a b c", "b c").view())
    ltm.apply(put(pattern("a b")))
    assert answer(ltm.view()) == answer(learned("b c", "a b", "a b c").view())


def test_deleting_what_is_not_there_changes_no_answer() -> None:
    """A deletion of an unknown name is harmless."""
    ltm = learned("a b")
    before = answer(ltm.view())
    ltm.apply(LtmChange(deleted=("unknown",)))
    assert answer(ltm.view()) == before


def test_every_change_is_a_version() -> None:
    """Each change counts the version up."""
    ltm = Ltm()
    for expected, change in enumerate([put(pattern("a b")), LtmChange(), CLEARED], start=1):
        ltm.apply(change)
        assert ltm.version == ltm.view().version == expected


def test_the_parts_of_a_change_apply_in_order() -> None:
    """Cleared, put, deleted, vectors, dimension: what is put survives a clear of the same change."""
    ltm = learned("x y")
    ltm.apply(LtmChange(vectors=(("old", (1.0,)),), dimension=1))
    change = LtmChange(
        cleared=True,
        put=(pattern("a b"), pattern("c d")),
        deleted=(pattern("c d").name,),
        vectors=(("new", (1.0, 2.0)),),
        dimension=2,
    )
    staged = Staged(ltm)
    staged.apply(change)
    ltm.apply(change)
    for reader in (ltm, staged):
        assert reader.get(pattern("x y").name) is None
        assert reader.get(pattern("a b").name) == pattern("a b")
        assert reader.get(pattern("c d").name) is None
        assert dict(reader.vectors) == {"new": (1.0, 2.0)}
        assert reader.dimension == 2


def test_staging_leaves_the_ltm_alone() -> None:
    """What is staged is seen through the overlay only, also through one on top of it."""
    ltm = learned("a b")
    ltm.apply(LtmChange(vectors=(("old", (1.0,)),), dimension=1))
    version = ltm.version
    lower = Staged(ltm)
    lower.apply(LtmChange(put=(pattern("c d"),), deleted=(pattern("a b").name,), vectors=(("new", (2.0,)),)))
    upper = Staged(lower)
    assert upper.get(pattern("a b").name) is None
    assert upper.get(pattern("c d").name) == pattern("c d")
    assert dict(upper.vectors) == {"old": (1.0,), "new": (2.0,)}
    upper.apply(CLEARED)
    assert (upper.get(pattern("c d").name), dict(upper.vectors), upper.dimension) == (None, {}, None)
    assert lower.get(pattern("c d").name) == pattern("c d")
    assert (ltm.version, len(ltm), dict(ltm.vectors), ltm.dimension) == (version, 1, {"old": (1.0,)}, 1)


def test_learning_and_deleting_for_ever_takes_no_room() -> None:
    """A view of few patterns stays small, however many were deleted before."""
    ltm = learned("a b")
    for i in range(50):
        ltm.apply(put(pattern(f"x {i}")))
        ltm.apply(LtmChange(deleted=(pattern(f"x {i}").name,)))
    assert len(ltm.view().patterns) <= 4
    assert answer(ltm.view()) == answer(learned("a b").view())

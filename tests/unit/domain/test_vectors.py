"""Section 7: vectors, their symbols and their neighbours."""

from __future__ import annotations

import pytest

from kato_node.domain.config import DEFAULT
from kato_node.domain.errors import VectorDimensionMismatch
from kato_node.domain.vectors import nearest, summed, symbol_of
from tests.unit.domain.session import Session


def vector_symbol(*values: float) -> str:
    """Return the symbol of one vector."""
    return symbol_of(summed([values]))


@pytest.mark.parametrize(
    ("vectors", "symbol"),
    [
        ([[1, 2, 3]], "VCTR|380e84549cb845604c318e8e14b73622cc10af42"),
        ([[0.5, 0.5], [1, 0]], "VCTR|0f765b5b7b37b7327933a9273880f506a415143e"),
    ],
)
def test_symbols(vectors: list[list[float]], symbol: str) -> None:
    """Vectors are added into one, whose symbol is the SHA-1 of its float64 values."""
    session = Session()
    session.observe("a", vectors=vectors)
    assert session.state.stm == ((symbol, "a"),)


def test_vector_symbols_come_before_strings() -> None:
    """The event is the vector symbols, then the strings, though a string may sort before them."""
    session = Session()
    session.observe("A", vectors=[[1, 2, 3]])
    assert session.state.stm == (("VCTR|380e84549cb845604c318e8e14b73622cc10af42", "A"),)


def test_sums_go_left_to_right_in_doubles() -> None:
    """The sum is rounded at each step, not once."""
    assert summed([(1e16,), (1.0,), (-1e16,)]) == (0.0,)
    assert summed([(0.1,), (0.2,), (0.3,)]) == (0.1 + 0.2 + 0.3,)


def test_negative_zero_is_zero() -> None:
    """-0.0 becomes 0.0, given or summed."""
    assert repr(summed([(-0.0, -1.0), (-0.0, 1.0)])) == "(0.0, 0.0)"
    assert vector_symbol(-0.0) == vector_symbol(0.0)


def test_the_first_learned_vector_fixes_the_dimension() -> None:
    """Another length than the learned one's is VECTOR_DIMENSION_MISMATCH with both lengths, nothing applied."""
    session = Session()
    session.observe("a", vectors=[[1, 2]])
    session.learn()
    session.observe("b")
    before = session.state
    with pytest.raises(VectorDimensionMismatch) as failure:
        session.observe(vectors=[[1, 2, 3]])
    assert failure.value.code == "VECTOR_DIMENSION_MISMATCH"
    assert failure.value.details == {"expected": 2, "actual": 3}
    assert session.state == before


def test_until_then_a_sessions_first_unlearned_vector_fixes_it_for_the_session() -> None:
    """Two sessions may hold unlearned vectors of different lengths; the one that learns second is refused."""
    first = Session()
    second = Session(first.ltm)
    first.observe("a", vectors=[[1, 2]])
    second.observe("a", vectors=[[1, 2, 3]])
    with pytest.raises(VectorDimensionMismatch):
        first.observe(vectors=[[1]])
    first.learn()
    assert first.ltm.dimension == 2
    before = second.state
    with pytest.raises(VectorDimensionMismatch) as failure:
        second.learn()
    assert failure.value.details == {"expected": 2, "actual": 3}
    assert (second.state, len(first.ltm)) == (before, 1)


def test_a_vector_that_was_not_learned_fixes_nothing() -> None:
    """A learn of fewer than 2 symbols stores no vector and fixes no dimension."""
    session = Session()
    session.observe(vectors=[[1, 2]])
    assert session.learn() == ""
    assert (session.ltm.dimension, dict(session.ltm.vectors)) == (None, {})
    session.observe(vectors=[[1, 2, 3]])


def test_vectors_are_stored_with_the_learn_that_includes_them() -> None:
    """After a learn each summed vector stands under its symbol, once."""
    session = Session()
    for _ in range(2):
        session.observe(vectors=[[1, 2], [1, 0]])
        session.observe(vectors=[[2, 2]])
        session.observe(vectors=[[5, 5]])
        session.learn()
    assert dict(session.ltm.vectors) == {vector_symbol(2, 2): (2.0, 2.0), vector_symbol(5, 5): (5.0, 5.0)}


def test_by_default_history_changes_nothing() -> None:
    """With vector_neighbors 0 an observation contributes exactly its own symbol."""
    session = Session()
    session.observe("a", vectors=[[0, 0]])
    session.learn()
    session.observe(vectors=[[0, 1]])
    assert session.state.stm == ((vector_symbol(0, 1),),)


def taught(**config: object) -> Session:
    """Return a session whose processor learned the vectors 0, 3, 4 and 10 on a line."""
    teacher = Session()
    for x in (0, 3, 4, 10):
        teacher.observe("a", vectors=[[x]])
    teacher.learn()
    session = Session(teacher.ltm)
    session.config = DEFAULT.updated(config)
    return session


def test_neighbours_join_the_event() -> None:
    """The k nearest learned vectors join, the own symbol is always there, de-duplicated and sorted."""
    session = taught(vector_neighbors=2)
    session.observe("b", vectors=[[2]])
    session.observe("b", vectors=[[3]])
    tied = min(vector_symbol(0), vector_symbol(4))
    assert session.state.stm == (
        (*sorted([vector_symbol(2), vector_symbol(3), tied]), "b"),
        (*sorted([vector_symbol(3), vector_symbol(4)]), "b"),
    )


def test_the_distance_bound_is_inclusive() -> None:
    """Only vectors within vector_distance_max join; null is no bound."""
    session = taught(vector_neighbors=10, vector_distance_max=1)
    session.observe(vectors=[[3]])
    assert session.state.stm == (tuple(sorted([vector_symbol(3), vector_symbol(4)])),)
    session = taught(vector_neighbors=10, vector_distance_max=None)
    session.observe(vectors=[[3]])
    assert len(session.state.stm[0]) == 4


def test_nearest_is_euclidean_with_ties_by_name() -> None:
    """The nearest come first; of equally near ones the smaller name."""
    learned = {"d": (3.0, 4.0), "c": (4.0, 3.0), "b": (0.0, 5.0), "a": (6.0, 0.0), "e": (0.0, 1.0)}
    assert nearest((0.0, 0.0), learned, k=4, distance_max=None) == ("e", "b", "c", "d")
    assert nearest((0.0, 0.0), learned, k=4, distance_max=5.0) == ("e", "b", "c", "d")
    assert nearest((0.0, 0.0), learned, k=4, distance_max=4.9) == ("e",)


def test_a_query_of_another_length_is_refused_before_the_search() -> None:
    """With neighbours on, too, another length is VECTOR_DIMENSION_MISMATCH."""
    session = taught(vector_neighbors=3)
    with pytest.raises(VectorDimensionMismatch):
        session.observe(vectors=[[1, 2]])

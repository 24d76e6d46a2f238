"""How nodes and static processors are named."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_manager.labels import name_for_people, node_id_for, processor_id_for
from container_manager.spec import new_node_id


def test_a_name_tells_whose_node_it_is() -> None:
    """A name for people has user, session and the whole seconds of its time."""
    assert name_for_people("user-123", "session-456", 1700000000.9) == "kato-user-123-session-456-1700000000"


@given(user=st.text(), session=st.text())
def test_names_are_safe(user: str, session: str) -> None:
    """Whatever users call themselves, names fit a container, a path and a file name, and are bounded."""
    assert re.fullmatch(r"kato-[A-Za-z0-9_.-]{3,90}-1", name_for_people(user, session, 1.0))
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,93}", processor_id_for(user, session))


@pytest.mark.parametrize(("one", "other"), [(("a-b", "c"), ("a", "b-c")), (("a b", "c"), ("a-b", "c"))])
def test_different_pairs_are_different_processors(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Two pairs of user and session that read alike have different memories."""
    assert processor_id_for(*one) != processor_id_for(*other)


def test_a_processors_node_id_has_the_form_of_all() -> None:
    """A derived node id looks like a fresh one, and is always the same."""
    derived = node_id_for("p")
    assert derived == node_id_for("p")
    assert all(re.fullmatch(r"[0-9a-f]{12}", node_id) for node_id in (derived, new_node_id()))

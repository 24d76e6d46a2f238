"""Whose call it is, and what is whose."""

from __future__ import annotations

import pytest

from kato_gateway.domain.owners import NO_KEYS, BadKeys, is_default, key_table, may_name, meant, permits
from kato_gateway.domain.sessions import extended, new_session

ANN, BOB = "ann-has-the-first-key", "bob-has-the-second-key"


def test_a_key_has_one_owner_and_an_owner_may_have_several_keys() -> None:
    """Every key of the table is found, wherever it stands, and nothing else is."""
    table = key_table([f"ann:{ANN}", f"bob:{BOB}", f"ann:{ANN}-2"])
    assert [table.owner_of(key.encode()) for key in (ANN, BOB, f"{ANN}-2")] == ["ann", "bob", "ann"]
    for wrong in (b"", b"ann", ANN.encode()[:-1], ANN.encode() + b"\0", f"ann:{ANN}".encode(), b"\xff" * 10_000):
        assert table.owner_of(wrong) is None
    assert table
    assert not NO_KEYS
    assert NO_KEYS.owner_of(ANN.encode()) is None


@pytest.mark.parametrize("key", ["x" * 16, "x" * 256, "a:key" * 4])
def test_the_first_colon_ends_the_name(key: str) -> None:
    """A key of 16 to 256 characters is taken; a colon is none of them."""
    if ":" in key:
        with pytest.raises(BadKeys):
            key_table([f"ann:{key}"])
    else:
        assert key_table([f"ann:{key}"]).owner_of(key.encode()) == "ann"


@pytest.mark.parametrize("name", ["a", "a" * 64, "Ann.B_c@example+x-1"])
def test_a_name_is_taken(name: str) -> None:
    """A name of 1 to 64 characters that may stand in an id is taken."""
    assert key_table([f"{name}:{ANN}"]).owner_of(ANN.encode()) == name


@pytest.mark.parametrize(
    "entry", ["", ANN, f":{ANN}", f".a:{ANN}", f"{'a' * 65}:{ANN}", f"ä:{ANN}", "ann:" + "x" * 15, "ann:" + "x" * 257]
)
def test_a_bad_entry_is_refused_by_its_number(entry: str) -> None:
    """What is wrong is told by the entry's number; the key itself is never told."""
    with pytest.raises(BadKeys, match="entry 2") as refusal:
        key_table([f"bob:{BOB}", entry])
    assert ANN not in str(refusal.value)
    assert "x" * 15 not in str(refusal.value)


def test_what_is_whose() -> None:
    """An owner has what is his; nobody's is nobody's; without keys everything is everybody's."""
    assert permits("ann", caller="ann")
    assert not permits("ann", caller="bob")
    assert not permits(None, caller="ann")
    assert permits("ann", caller=None)
    assert permits(None, caller=None)


def test_default_is_the_callers_own() -> None:
    """`default` means another session for each owner, whose name nobody else may give."""
    assert meant("default", caller=None) == "default"
    assert meant("default", caller="ann") == "default:ann"
    assert meant("default:bob", caller="ann") == "default:bob"
    assert meant("s", caller="ann") == "s"
    assert [may_name(name, caller="ann") for name in ("default:ann", "default:bob", "default", "s")] == [
        *(True, False),
        *(True, True),
    ]
    assert may_name("default:bob", caller=None)


def test_an_owners_default_never_expires() -> None:
    """Nor can it be made to; a session of that name that has no owner is like any other."""
    own = new_session("default:ann", incarnation="i", at_s=0.0, ttl_s=60.0, owner="ann")
    assert extended(own, at_s=1.0, ttl_s=5.0).expires_at_s is None
    assert own.expires_at_s is None
    assert new_session("default:ann", incarnation="i", at_s=0.0, ttl_s=60.0).expires_at_s == 60.0
    assert is_default("default:ann", owner="ann")
    assert not is_default("default", owner="ann")

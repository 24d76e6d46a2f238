"""Matching is difflib's, whatever is compared."""

from __future__ import annotations

from difflib import SequenceMatcher

from hypothesis import given
from hypothesis import strategies as st

from kato_node.domain.matching import Matcher, Run

WORDS = st.lists(st.sampled_from("abc"), max_size=40) | st.lists(st.sampled_from("abcdefghijklmnop"), max_size=25)


@given(pattern=WORDS, stm=WORDS, repeats=st.sampled_from([1, 1, 1, 9]))
def test_the_runs_are_those_of_difflib(pattern: list[str], stm: list[str], repeats: int) -> None:
    """Same runs, same order as SequenceMatcher(None, pattern, stm, autojunk=False)."""
    stm = stm * repeats
    blocks = SequenceMatcher(None, pattern, stm, autojunk=False).get_matching_blocks()
    assert Matcher(stm).runs(pattern) == [Run(*block) for block in blocks if block.size]

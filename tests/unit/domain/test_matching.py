"""Section 6, Match: the reference values, and difflib where comparisons are large."""

from __future__ import annotations

import random
from collections.abc import Sequence
from difflib import SequenceMatcher

import pytest

from kato_node.domain.matching import Matcher, Run


def runs_of_difflib(pattern: Sequence[str], stm: Sequence[str]) -> list[Run]:
    """Return what the oracle says: difflib with autojunk off."""
    blocks = SequenceMatcher(None, pattern, stm, autojunk=False).get_matching_blocks()
    return [Run(*block) for block in blocks if block.size]


@pytest.mark.parametrize(
    ("pattern", "stm", "similarity", "runs"),
    [
        ("abc", "cba", 1 / 3, 1),
        ("abcbdab", "bdcaba", 6 / 13, None),
        ("abxcd", "abcd", 8 / 9, 2),
        ("xabyz", "yzxabq", 6 / 11, 1),
        ("", "abc", 0.0, 0),
        ("abc", "", 0.0, 0),
    ],
)
def test_reference_values(pattern: str, stm: str, similarity: float, runs: int | None) -> None:
    """similarity = 2m / (L+n), and the number of runs, of the page's pairs."""
    found = Matcher(stm).runs(pattern)
    assert 2 * sum(run.length for run in found) / (len(pattern) + len(stm)) == pytest.approx(similarity, abs=1e-12)
    assert runs is None or len(found) == runs


def test_ties_go_to_the_smallest_position_in_the_pattern_then_in_the_stm() -> None:
    """a b c against c b a: one match, a; of two equal runs in the STM the first."""
    assert Matcher("cba").runs("abc") == [Run(0, 2, 1)]
    assert Matcher("xaya").runs("a") == [Run(0, 1, 1)]


def test_symbols_are_whole() -> None:
    """Symbols are compared whole: what they share inside does not count, and the empty one is a symbol too."""
    assert Matcher(["ab", ""]).runs(["a", "b", "", "ab"]) == [Run(2, 1, 1)]


def test_popular_symbols_are_no_junk() -> None:
    """A symbol that fills a long STM still matches: no popularity heuristic."""
    assert Matcher(["a"] * 1000).runs(["a"] * 300) == [Run(0, 0, 300)]


@pytest.mark.parametrize(
    ("length", "stm_length", "vocabulary"),
    [(330, 30, 71), (20, 400, 8), (500, 300, 3), (300, 900, 4000), (900, 300, 100_000), (2000, 7, 5)],
)
def test_long_comparisons(length: int, stm_length: int, vocabulary: int) -> None:
    """Dense or sparse, long or short: exactly the runs of difflib."""
    rng = random.Random(length * stm_length)
    for _ in range(3):
        pattern = [str(rng.randrange(vocabulary)) for _ in range(length)]
        stm = [str(rng.randrange(vocabulary)) for _ in range(stm_length)]
        at = rng.randrange(length)
        shared = pattern[at : at + 20]
        stm[: len(shared)] = shared
        assert Matcher(stm).runs(pattern) == runs_of_difflib(pattern, stm)


def test_a_matcher_serves_many_patterns() -> None:
    """One STM is compared with one pattern after another, none of which changes the next answer."""
    matcher = Matcher("abcab")
    patterns = ["cab", "xyz", "abcab", "", "bca", "xay"]
    assert [matcher.runs(p) for p in patterns] == [runs_of_difflib(p, "abcab") for p in patterns]

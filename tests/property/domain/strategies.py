"""Small corpora with much in common, so that matches, ties and repeats are the rule."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from kato_node.domain.config import RANKABLE
from kato_node.domain.state import Json, Stm
from tests.unit.domain.session import Session

SYMBOLS = st.sampled_from(["a", "b", "c", "d", "é", ""])
EVENTS = st.lists(SYMBOLS, min_size=1, max_size=3).map(tuple)
STMS = st.lists(EVENTS, max_size=5).map(tuple)
PATTERNS = STMS.filter(lambda events: sum(map(len, events)) >= 2)
CORPORA = st.lists(PATTERNS, max_size=7)
THRESHOLDS = st.sampled_from([0.0, 5e-324, 0.1, 0.3, 1 / 3, 0.5, 0.8, 1.0])
NUMBERS = st.floats(-1e100, 1e100)
EMOTIVES = st.dictionaries(st.sampled_from(["joy", "fear"]), NUMBERS, max_size=2)
JSON: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | NUMBERS | st.sampled_from(["", "1", "é'"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["k", ""]), inner, max_size=2),
    max_leaves=4,
)
METADATA = st.dictionaries(st.sampled_from(["k", "l"]), JSON, max_size=2)
RANKS = st.sampled_from(RANKABLE)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "max_pattern_length": st.integers(0, 4),
        "stm_mode": st.sampled_from(["CLEAR", "ROLLING"]),
        "persistence": st.integers(1, 3),
        "recall_threshold": THRESHOLDS,
        "max_predictions": st.integers(1, 5),
        "rank_sort_algo": RANKS,
        "sort_symbols": st.booleans(),
    },
)


def taught(corpus: Sequence[Stm]) -> Session:
    """Return a session, its STM empty, whose processor learned the corpus in this order."""
    session = Session(sort_symbols=False)
    for pattern in corpus:
        session.observe_all(pattern)
        session.learn()
    return session

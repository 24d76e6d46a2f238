"""What is true of every prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kato_node.domain.config import DEFAULT
from kato_node.domain.learn import Pattern, pattern_name
from kato_node.domain.ltm import Ltm, LtmChange
from kato_node.domain.predict import Ranking, predict
from kato_node.domain.state import Json, Stm, flattened
from tests.property.domain.reference import Reference
from tests.property.domain.strategies import CONFIGS, CORPORA, PATTERNS, RANKS, STMS, THRESHOLDS, taught


def ranked(corpus: list[Stm], stm: Stm, **config: object) -> Ranking:
    """Return the predictions of an STM on a processor that learned the corpus."""
    return predict(stm, config=DEFAULT.updated(config), ltm=taught(corpus).ltm.view())


def learned_patterns(corpus: list[Stm]) -> list[Pattern]:
    """Return the patterns that a processor holds after it learned the corpus."""
    ltm = taught(corpus).ltm
    return [pattern for name in {pattern_name(events) for events in corpus} if (pattern := ltm.get(name))]


def floats(value: Json) -> Iterator[float]:
    """Yield every float of a JSON value."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from floats(item)


@given(corpus=CORPORA, stm=STMS, threshold=THRESHOLDS)
def test_invariants(corpus: list[Stm], stm: Stm, threshold: float) -> None:
    """The invariants of section 9, of every prediction on its own."""
    symbols = flattened(stm)
    for prediction in ranked(corpus, stm, recall_threshold=threshold, max_predictions=10_000).predictions:
        metrics, m = prediction.metrics, len(prediction.matches)
        length = len(flattened(prediction.pattern.events))
        assert 0 <= metrics["similarity"] <= 1
        assert metrics["similarity"] == 2 * m / (length + len(symbols)) >= threshold
        rest = iter(symbols)
        assert all(symbol in rest for symbol in prediction.matches), "matches is a subsequence of S"
        assert prediction.past + prediction.present + prediction.future == prediction.pattern.events
        assert len(prediction.missing) == len(prediction.present)
        assert len(prediction.extras) == len(stm)
        assert not set(prediction.matches) & set(flattened(prediction.missing))
        assert metrics["evidence"] <= 1
        assert metrics["confidence"] <= 1
        assert metrics["evidence"] * length == pytest.approx(m, abs=1e-9)
        assert -1 <= metrics["snr"] <= 1
        assert metrics["potential"] <= 4
        assert 0 <= metrics["itfdf_similarity"] <= 1


@given(corpus=CORPORA, stm=STMS, threshold=THRESHOLDS)
def test_posteriors_sum_to_one(corpus: list[Stm], stm: Stm, threshold: float) -> None:
    """Over all kept candidates posteriors sum to 1, or are all 0 when none matches; so do the futures' shares."""
    ranking = ranked(corpus, stm, recall_threshold=threshold, max_predictions=10_000)
    posteriors = [prediction.metrics["bayesian_posterior"] for prediction in ranking.predictions]
    matched = any(prediction.matches for prediction in ranking.predictions)
    assert sum(posteriors) == pytest.approx(1 if matched else 0, abs=1e-9)
    assert matched or not any(posteriors)
    shares = [future.aggregate_potential for future in ranking.future_potentials]
    assert sum(shares) == pytest.approx(1 if shares else 0, abs=1e-9)


@given(corpus=CORPORA, stm=STMS, threshold=THRESHOLDS)
def test_every_number_is_that_of_the_page(corpus: list[Stm], stm: Stm, threshold: float) -> None:
    """Same candidates, same parts, and every metric within 1e-9 of the formulas written down plainly."""
    ranking = ranked(corpus, stm, recall_threshold=threshold, max_predictions=10_000, min_prediction_symbols=1)
    if not stm:
        assert ranking == Ranking()
        return
    reference = Reference(learned_patterns(corpus), stm, threshold)
    expected = {one.pattern.name: one for one in reference.kept}
    assert {prediction.pattern.name for prediction in ranking.predictions} == expected.keys()
    for prediction in ranking.predictions:
        one = expected[prediction.pattern.name]
        assert list(prediction.matches) == one.matches
        assert (prediction.past, prediction.present, prediction.future) == (one.past, one.present, one.future)
        assert dict(prediction.metrics) == pytest.approx(reference.metrics(one), abs=1e-9)
    shares = {future.future: future.aggregate_potential for future in ranking.future_potentials}
    assert shares == pytest.approx(reference.shares(), abs=1e-9)


@given(corpus=CORPORA, stm=STMS, name=RANKS, limit=st.integers(1, 5))
def test_the_order_is_total(corpus: list[Stm], stm: Stm, name: str, limit: int) -> None:
    """Rank to 12 decimals, then similarity, frequency, name; and max_predictions only cuts."""
    config: dict[str, object] = {"rank_sort_algo": name, "recall_threshold": 0}
    ranking = ranked(corpus, stm, **config, max_predictions=10_000)
    sign = 1 if name == "fragmentation" else -1
    order = [
        (sign * round(p.metrics[name], 12), -p.metrics["similarity"], -p.pattern.frequency, p.pattern.name)
        for p in ranking.predictions
    ]
    assert order == sorted(order)
    limited = ranked(corpus, stm, **config, max_predictions=limit)
    assert limited.predictions == ranking.predictions[:limit]
    assert limited.future_potentials == ranking.future_potentials


@given(corpus=CORPORA, stm=STMS, config=CONFIGS, random=st.randoms(use_true_random=False))
def test_a_restart_changes_no_answer(corpus: list[Stm], stm: Stm, config: dict[str, object], random: Random) -> None:
    """An LTM made anew from its stored patterns, in any order, answers the same, bit for bit."""
    patterns = learned_patterns(corpus)
    random.shuffle(patterns)
    reloaded = Ltm()
    for pattern in patterns:
        reloaded.apply(LtmChange(put=(pattern,)))
    again = predict(stm, config=DEFAULT.updated(config), ltm=reloaded.view())
    assert repr(again) == repr(ranked(corpus, stm, **config))


@given(corpus=CORPORA, gone=st.lists(PATTERNS, max_size=4), stm=STMS)
def test_a_deleted_pattern_leaves_no_trace(corpus: list[Stm], gone: list[Stm], stm: Stm) -> None:
    """After a deletion every answer is that of an LTM which never learned the pattern; older views keep theirs."""
    gone = [events for events in gone if events not in corpus]
    ltm = taught([*gone, *corpus]).ltm
    config = DEFAULT.updated({"recall_threshold": 0})
    view = ltm.view()
    before = repr(predict(stm, config=config, ltm=view))
    ltm.apply(LtmChange(deleted=tuple(pattern_name(events) for events in gone)))
    assert repr(predict(stm, config=config, ltm=ltm.view())) == repr(ranked(corpus, stm, recall_threshold=0))
    assert repr(predict(stm, config=config, ltm=view)) == before


@given(corpus=CORPORA, stm=STMS, config=CONFIGS)
def test_no_answer_shows_negative_zero(corpus: list[Stm], stm: Stm, config: dict[str, object]) -> None:
    """No float of any answer is -0.0, NaN or infinite."""
    ranking = ranked(corpus, stm, **config)
    predictions = [prediction.as_dict() for prediction in ranking.predictions]
    futures = [future.as_dict() for future in ranking.future_potentials]
    for number in floats([*predictions, *futures]):
        assert math.isfinite(number)
        assert number != 0 or math.copysign(1, number) == 1

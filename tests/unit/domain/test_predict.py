"""Section 6: when, what and in which order is predicted, and the worked examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from kato_node.domain.config import DEFAULT, RANKABLE
from kato_node.domain.learn import display_name, pattern_name
from kato_node.domain.ltm import LtmChange
from kato_node.domain.predict import Prediction, Ranking
from kato_node.domain.state import Stm
from tests.unit.domain.session import Session, events, learned, predicted

ALL = "all"  # of the pattern's events


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of the page's table of worked examples; None where it leaves a cell empty."""

    learned: str
    observed: str
    similarity: float
    past: str = ""
    present: str = ALL
    future: str = ""
    missing: list[str] | None = None
    extras: list[str] | None = None
    evidence: float
    confidence: float
    snr: float
    fragmentation: float
    potential: float | None = None
    threshold: float = 0.1


EXAMPLES = {
    1: Example(
        learned="a b c",
        observed="a b",
        similarity=0.8,
        present="a b",
        future="c",
        missing=["", ""],
        extras=["", ""],
        evidence=2 / 3,
        confidence=1,
        snr=1,
        fragmentation=0,
        potential=3.666666666667,
    ),
    2: Example(
        learned="1 2 3 4 5",
        observed="2 3",
        similarity=4 / 7,
        past="1",
        present="2 3",
        future="4 5",
        evidence=0.4,
        confidence=1,
        snr=1,
        fragmentation=0,
        potential=3.4,
    ),
    3: Example(
        learned="[hello world] [bar foo]",
        observed="hello foo",
        similarity=2 / 3,
        missing=["world", "bar"],
        extras=["", ""],
        evidence=0.5,
        confidence=0.5,
        snr=1,
        fragmentation=1,
    ),
    4: Example(
        learned="alpha beta",
        observed="[alpha unexpected] [beta extra]",
        similarity=2 / 3,
        missing=["", ""],
        extras=["unexpected", "extra"],
        evidence=1,
        confidence=1,
        snr=1 / 3,
        fragmentation=1,
    ),
    5: Example(
        learned="[a b] [c d]",
        observed="[a x] [c y]",
        similarity=0.5,
        missing=["b", "d"],
        extras=["x", "y"],
        evidence=0.5,
        confidence=0.5,
        snr=1 / 3,
        fragmentation=1,
    ),
    6: Example(
        learned="[a b] c",
        observed="b c",
        similarity=0.8,
        missing=["a", ""],
        evidence=2 / 3,
        confidence=2 / 3,
        snr=1,
        fragmentation=0,
    ),
    7: Example(
        learned="a b c d e",
        observed="a c e",
        similarity=0.75,
        missing=["", "b", "", "d", ""],
        extras=["", "", ""],
        evidence=0.6,
        confidence=0.6,
        snr=1,
        fragmentation=2,
    ),
    8: Example(
        learned="a b",
        observed="a b c d e",
        similarity=4 / 7,
        missing=["", ""],
        extras=["", "", "c", "d", "e"],
        evidence=1,
        confidence=1,
        snr=1 / 7,
        fragmentation=0,
        potential=2.285714285714,
    ),
    9: Example(
        learned="a a b",
        observed="a b",
        similarity=0.8,
        past="a",
        present="a b",
        evidence=2 / 3,
        confidence=1,
        snr=1,
        fragmentation=0,
    ),
    10: Example(
        learned="a b c",
        observed="c b a",
        similarity=1 / 3,
        present="a",
        future="b c",
        evidence=1 / 3,
        confidence=1,
        snr=0,
        fragmentation=0,
        potential=2.0,
    ),
    11: Example(
        learned="k1 k2",
        observed="u1 u2",
        threshold=0,
        similarity=0,
        missing=["k1", "k2"],
        extras=["u1", "u2"],
        evidence=0,
        confidence=0,
        snr=-1,
        fragmentation=-1,
        potential=0.0,
    ),
}


def close(expected: float | Sequence[float] | Mapping[str, float]) -> object:
    """Return what equals the number, or each of the numbers, within the page's tolerance."""
    return pytest.approx(expected, abs=1e-9)


def only(ranking: Ranking) -> Prediction:
    """Return the only prediction."""
    (prediction,) = ranking.predictions
    return prediction


def names(ranking: Ranking) -> list[Stm]:
    """Return the predicted patterns' events, in order."""
    return [prediction.pattern.events for prediction in ranking.predictions]


def lists(texts: list[str]) -> tuple[tuple[str, ...], ...]:
    """Return one event for each text, empty ones too."""
    return tuple(tuple(text.split()) for text in texts)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_worked_examples(example: Example) -> None:
    """Each row of the worked examples, every cell of it."""
    prediction = only(predicted(example.observed, learned(example.learned), recall_threshold=example.threshold))
    sequence = events(example.learned)
    assert prediction.past == events(example.past)
    assert prediction.present == (sequence if example.present == ALL else events(example.present))
    assert prediction.future == events(example.future)
    assert example.missing is None or prediction.missing == lists(example.missing)
    assert example.extras is None or prediction.extras == lists(example.extras)
    assert prediction.as_dict()["sequence"] == sequence
    for name in ("similarity", "evidence", "confidence", "snr", "fragmentation"):
        assert prediction.metrics[name] == close(getattr(example, name)), name
    assert example.potential is None or prediction.metrics["potential"] == close(example.potential)


def test_worked_example_12() -> None:
    """k1 k2 at threshold .1, observed u1 u2: none."""
    assert predicted("u1 u2", learned("k1 k2")) == Ranking()


def test_worked_example_13() -> None:
    """p m t and p m z at threshold 1, observed p m t: one, similarity 1, potential 4."""
    prediction = only(predicted("p m t", learned("p m t", "p m z"), recall_threshold=1))
    assert prediction.pattern.events == events("p m t")
    assert (prediction.past, prediction.present, prediction.future) == ((), events("p m t"), ())
    expected = {"similarity": 1, "evidence": 1, "confidence": 1, "snr": 1, "fragmentation": 0, "potential": 4}
    assert {name: prediction.metrics[name] for name in expected} == close(expected)


def test_the_corpus_of_one() -> None:
    """Only #1 learned: every corpus metric and its future."""
    ranking = predicted("a b", learned("a b c"))
    expected = {
        "frequency": 1,
        "entropy": 1.0,
        "normalized_entropy": 0.630929753571,
        "global_normalized_entropy": 0,
        "confluence": 0,
        "itfdf_similarity": 1.0,
        "tfidf_score": 0.5,
        "predictive_information": 0.8,
        "bayesian_posterior": 1.0,
        "bayesian_prior": 1.0,
        "bayesian_likelihood": 0.8,
        "pattern_probability": 1.0,
        "weighted_strength": 0.8,
    }
    metrics = only(ranking).metrics
    assert {name: metrics[name] for name in expected} == close(expected)
    (future,) = ranking.future_potentials
    assert future.as_dict() == {
        "future": events("c"),
        "aggregate_potential": close(1.0),
        "supporting_patterns": 1,
        "total_weighted_frequency": close(0.8),
    }


def test_a_corpus_of_three() -> None:
    """Learned a b c, a x y, a p q and observed a b."""
    ranking = predicted("a b", learned("a b c", "a x y", "a p q"))
    first, *others = ranking.predictions
    assert first.pattern.events == events("a b c")
    assert first.metrics["potential"] == close(3.666666666667)
    assert first.metrics["bayesian_posterior"] == close(0.5)
    assert first.metrics["confluence"] == close(0.222222222222)
    assert len(others) == 2
    for other in others:
        expected = {
            "similarity": 0.4,
            "snr": 1 / 3,
            "itfdf_similarity": 0.982894432684,
            "potential": 2.427338877128,
            "bayesian_posterior": 0.25,
            "confluence": 0,
        }
        assert {name: other.metrics[name] for name in expected} == close(expected)
    assert all(prediction.metrics["bayesian_prior"] == close(1 / 3) for prediction in ranking.predictions)
    assert [future.aggregate_potential for future in ranking.future_potentials] == close([0.5, 0.25, 0.25])
    assert [future.future for future in ranking.future_potentials] == [events("c"), events("p q"), events("x y")]


def test_priors_follow_frequencies() -> None:
    """Learned abc three times and abd once, observed a b: priors .75/.25, order abc, abd."""
    ranking = predicted("a b", learned("a b c", "a b d", "a b c", "a b c"))
    assert names(ranking) == [events("a b c"), events("a b d")]
    assert [p.metrics["bayesian_prior"] for p in ranking.predictions] == close([0.75, 0.25])


CORPUS = ("[a b] c d", "[a b] c d", "[a a] c", "c e", "c d e", "[a c] [d e]", "f g")
COLUMNS = (
    "similarity",
    "snr",
    "itfdf_similarity",
    "global_normalized_entropy",
    "confluence",
    "tfidf_score",
    "bayesian_posterior",
    "potential",
)
# pattern, missing, extras, then the columns
SEPARATING: list[tuple[str, list[str], list[str], list[float]]] = [
    (
        "[a c] [d e]",
        [""],
        ["b", "", ""],
        [4 / 7, 0.6, 0.997601793435, 0.256182548400, 1 / 12, 0.815758601458, 0.183486238532, 2.897601793435],
    ),
    (
        "[a a] c",
        ["", ""],
        ["b", "", ""],
        [2 / 3, 0.6, 0.988435643167, 0.256182548400, 19 / 168, 0.877172400972, 0.214067278287, 2.788435643167],
    ),
    (
        "[a b] c d",
        ["b", ""],
        ["", "", ""],
        [4 / 7, 0.6, 1, 0.409646251927, 67 / 252, 0.760888545173, 0.366972477064, 2.2],
    ),
    (
        "c e",
        [""],
        ["b", "a", ""],
        [0.4, 0, 0.974192375788, 0.078078954846, 1 / 42, 1.263034405834, 0.128440366972, 1.974192375788],
    ),
    (
        "c d e",
        [""],
        ["b", "a", ""],
        [1 / 3, 0, 0.974192375788, 0.078078954846, 1 / 42, 1.263034405834, 0.107033639144, 1.974192375788],
    ),
]


def test_a_corpus_that_separates_readings() -> None:
    """Observed b a c: the five patterns in rank order, every number of the table."""
    ranking = predicted("b a c", learned(*CORPUS))
    assert len(ranking.predictions) == len(SEPARATING)
    for prediction, (pattern, missing, extras, row) in zip(ranking.predictions, SEPARATING, strict=True):
        assert prediction.pattern.events == events(pattern)
        assert prediction.missing == lists(missing)
        assert prediction.extras == lists(extras)
        assert [prediction.metrics[name] for name in COLUMNS] == close(row)
        expected = 0.407936507937 if prediction.future else 0
        assert prediction.metrics["predictive_information"] == close(expected)


def test_the_futures_of_that_corpus() -> None:
    """future_potentials d 120/257, d e 60/257, e 42/257, d;e 35/257, whatever max_predictions is."""
    expected = [("d", 120), ("[d e]", 60), ("e", 42), ("d e", 35)]
    for limit in (100, 1):
        ranking = predicted("b a c", learned(*CORPUS), max_predictions=limit)
        assert [item.future for item in ranking.future_potentials] == [events(text) for text, _ in expected]
        shares = [item.aggregate_potential for item in ranking.future_potentials]
        assert shares == close([share / 257 for _, share in expected])


def test_ensemble_sums_come_before_the_limit() -> None:
    """F, posteriors and p use all kept candidates, before max_predictions."""
    whole = predicted("b a c", learned(*CORPUS))
    for limit in range(1, 6):
        assert predicted("b a c", learned(*CORPUS), max_predictions=limit).predictions == whole.predictions[:limit]


def test_the_order_of_learning_changes_nothing() -> None:
    """Every answer is the same bit for bit, whatever order the patterns came in, as after a restart."""
    assert predicted("b a c", learned(*CORPUS)) == predicted("b a c", learned(*reversed(CORPUS)))


def test_nothing_is_predicted_from_too_few_symbols() -> None:
    """Below min_prediction_symbols the answer is []; symbols count, not events."""
    ltm = learned("a b", "[a b] c")
    assert predicted("a", ltm) == Ranking()
    assert len(predicted("a", ltm, min_prediction_symbols=1).predictions) == 2
    assert len(predicted("[a b]", ltm).predictions) == 2
    assert predicted("", ltm, min_prediction_symbols=1, recall_threshold=0) == Ranking()


def test_an_empty_ltm_predicts_nothing() -> None:
    """No pattern, no prediction, at any threshold."""
    assert predicted("a b", learned(), recall_threshold=0) == Ranking()


@pytest.mark.parametrize("threshold", [0.8, 0.8000000000000002])
def test_the_threshold_is_inclusive(threshold: float) -> None:
    """A pattern is kept when its similarity reaches the threshold, compared as doubles."""
    assert len(predicted("a b", learned("a b c"), recall_threshold=threshold).predictions) == (threshold == 0.8)


def test_patterns_without_a_match_are_kept_only_at_threshold_zero() -> None:
    """At 0.0 every pattern is kept, above it only those that match."""
    ltm = learned("a b", "x y", "a z")
    assert len(predicted("a b", ltm, recall_threshold=0.0).predictions) == 3
    assert len(predicted("a b", ltm, recall_threshold=5e-324).predictions) == 2


def test_posteriors_are_zero_when_nothing_matches() -> None:
    """All posteriors are 0 if the sum is 0, and there are no futures."""
    ranking = predicted("u v", learned("a b", "x y"), recall_threshold=0)
    assert [p.metrics["bayesian_posterior"] for p in ranking.predictions] == [0.0, 0.0]
    assert ranking.future_potentials == ()
    assert "-0.0" not in repr(ranking)


def test_ties_in_order() -> None:
    """Equal ranks are ordered by similarity desc, frequency desc, name asc."""
    ltm = learned("a b z", "a b y y", "a b x", "a b w", "a b w")
    ranking = predicted("a b", ltm, rank_sort_algo="confidence")
    assert names(ranking)[0] == events("a b w")
    assert names(ranking)[3] == events("a b y y")
    assert names(ranking)[1:3] == sorted([events("a b x"), events("a b z")], key=pattern_name)


def test_similarity_goes_before_frequency_in_a_tie() -> None:
    """Of two equal ranks the more similar pattern comes first, however often the other was learned."""
    ranking = predicted("a b", learned("a b z", "a b y y", "a b y y"), rank_sort_algo="confidence")
    assert names(ranking) == [events("a b z"), events("a b y y")]


def test_rank_is_compared_to_twelve_decimals() -> None:
    """Values that differ by a rounding are equal: similarity decides."""
    assert names(predicted("b a c", learned(*CORPUS)))[3:] == [events("c e"), events("c d e")]
    ranking = predicted("a a", learned("a d", "a d c"), rank_sort_algo="predictive_information")
    first, second = (prediction.metrics["predictive_information"] for prediction in ranking.predictions)
    assert 0 < second - first < 1e-12
    assert names(ranking) == [events("a d"), events("a d c")]


@pytest.mark.parametrize("name", RANKABLE)
def test_any_numeric_field_ranks(name: str) -> None:
    """Predictions rank by any numeric field, descending; fragmentation ascending."""
    ranking = predicted("b a c", learned(*CORPUS), rank_sort_algo=name, recall_threshold=0)
    values = [round(prediction.metrics[name], 12) for prediction in ranking.predictions]
    assert len(values) == 6
    assert values == sorted(values, reverse=name != "fragmentation")


def test_a_prediction_shows_its_fields() -> None:
    """A prediction has exactly the page's fields, and its numeric ones are those that may rank."""
    session = Session(learned("a b c"))
    session.observe("a", "b")
    shown = only(session.predict()).as_dict()
    assert shown.keys() == {
        *RANKABLE,
        *("type", "name", "emotives", "metadata", "matches", "past", "present", "future"),
        *("missing", "extras", "sequence"),
    }
    assert shown["type"] == "prototypical"
    assert shown["name"] == display_name(pattern_name(events("a b c")))
    assert shown["matches"] == ("a", "b")
    numeric = [name for name, value in shown.items() if isinstance(value, int | float)]
    assert sorted(numeric) == sorted(RANKABLE)
    assert isinstance(shown["fragmentation"], float)
    assert json.loads(json.dumps(shown))["sequence"] == [["a"], ["b"], ["c"]]


def test_predictions_follow_the_stm_the_config_and_the_ltm() -> None:
    """Predictions are no state: a read after a change of any of the three is of what is then."""
    session = Session(learned("a b c"))
    session.observe_all(events("a b"))
    assert len(session.predict().predictions) == 1
    session.config = DEFAULT.updated({"recall_threshold": 0.9})
    assert session.predict() == Ranking()
    session.config = DEFAULT
    session.ltm.apply(LtmChange(deleted=(pattern_name(events("a b c")),)))
    assert session.predict() == Ranking()


def test_frequencies_of_zero_divide_nothing() -> None:
    """Where all frequencies are 0 the metrics that divide by them are 0."""
    ltm = learned("a b c")
    pattern = ltm.get(pattern_name(events("a b c")))
    assert pattern is not None
    ltm.apply(LtmChange(put=(type(pattern)(name=pattern.name, events=pattern.events, frequency=0, metadata={}),)))
    metrics = only(predicted("a b", ltm)).metrics
    zero = ("itfdf_similarity", "confluence", "pattern_probability", "bayesian_posterior", "predictive_information")
    assert [metrics[name] for name in zero] == [0.0] * 5


def test_a_pattern_of_one_symbol_has_no_normalized_entropy() -> None:
    """With one distinct symbol in the LTM (T = 1) the normalized entropies are 0, never -0.0."""
    ranking = predicted("a a", learned("a a"))
    metrics = only(ranking).metrics
    assert (metrics["normalized_entropy"], metrics["global_normalized_entropy"]) == (0.0, 0.0)
    assert "-0.0" not in repr(ranking)

"""Predictions (processor.md, section 6): a function of (stm, config, ltm), computed when read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kato_node.domain.candidate import Candidate, candidate, similarity
from kato_node.domain.config import Config
from kato_node.domain.emotives import averaged
from kato_node.domain.learn import Pattern, display_name
from kato_node.domain.ltm import LtmView
from kato_node.domain.matching import Matcher
from kato_node.domain.metrics import METRICS, Corpus, corpus_of
from kato_node.domain.state import Event, Json, Stm, flattened

_DECIMALS = 12  # to which ranking compares


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One pattern that the STM is like, with its parts and metrics.

    Attributes:
        missing: one event for each event of the present.
        extras: one event for each event of the STM.
        metrics: every name of `config.RANKABLE`.
    """

    pattern: Pattern
    matches: tuple[str, ...]
    past: Stm
    present: Stm
    future: Stm
    missing: tuple[Event, ...]
    extras: tuple[Event, ...]
    metrics: Mapping[str, float]

    def as_dict(self) -> dict[str, Json]:
        """Return the prediction as the interfaces show it."""
        return {
            "type": "prototypical",
            "name": display_name(self.pattern.name),
            "emotives": averaged(self.pattern.emotives),
            "metadata": self.pattern.metadata,
            "matches": self.matches,
            "past": self.past,
            "present": self.present,
            "future": self.future,
            "missing": self.missing,
            "extras": self.extras,
            **self.metrics,
            "sequence": self.pattern.events,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FuturePotential:
    """One future, how many candidates have it, and their weight: in all, and as a share of that of all futures."""

    future: Stm
    aggregate_potential: float
    supporting_patterns: int
    total_weighted_frequency: float

    def as_dict(self) -> dict[str, Json]:
        """Return it as the interfaces show it."""
        return {
            "future": self.future,
            "aggregate_potential": self.aggregate_potential,
            "supporting_patterns": self.supporting_patterns,
            "total_weighted_frequency": self.total_weighted_frequency,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The answer: the best predictions, best first, and the futures of all kept candidates, weightiest first."""

    predictions: tuple[Prediction, ...] = ()
    future_potentials: tuple[FuturePotential, ...] = ()


def predict(stm: Stm, *, config: Config, ltm: LtmView) -> Ranking:
    """Return what the STM is like and what comes next.

    Cost: O(patterns) to discard those with too few symbols in common; each of the rest is compared, see `matching`.
    """
    symbols = flattened(stm)
    if len(symbols) < config.min_prediction_symbols:
        return Ranking()
    candidates = list(_candidates(symbols, config.recall_threshold, ltm))
    if not candidates:
        return Ranking()
    corpus = corpus_of(candidates, symbols, ltm)
    best = _ranked(candidates, corpus, config.rank_sort_algo)[: config.max_predictions]
    return Ranking(
        predictions=tuple(_prediction(kept, corpus, stm) for kept in best),
        future_potentials=_future_potentials(corpus),
    )


def _candidates(symbols: Sequence[str], threshold: float, ltm: LtmView) -> Iterator[Candidate]:
    """Yield the patterns whose similarity reaches the threshold."""
    matcher = Matcher(symbols)
    for pattern, shape, bound in zip(ltm.patterns, ltm.shapes, _matchable(symbols, ltm), strict=False):
        length = len(shape.symbols)
        if pattern is None or similarity(min(bound, length), length, len(symbols)) < threshold:
            continue
        runs = matcher.runs(shape.symbols)
        if similarity(sum(run.length for run in runs), length, len(symbols)) >= threshold:
            yield candidate(pattern, shape, symbols, runs)


def _matchable(symbols: Sequence[str], ltm: LtmView) -> list[int]:
    """Return, for each slot, how many of the STM's symbols its pattern contains: it matches no more than those."""
    bounds = [0] * len(ltm.patterns)
    for symbol, count in Counter(symbols).items():
        for slot in ltm.slots_with(symbol):
            bounds[slot] += count
    return bounds


def _ranked(candidates: Sequence[Candidate], corpus: Corpus, name: str) -> list[Candidate]:
    """Return the candidates by the metric of that name, best first; ties by similarity, frequency and name."""
    metric = METRICS[name]
    sign = 1 if name == "fragmentation" else -1

    def rank(c: Candidate) -> tuple[float, float, int, str]:
        return sign * round(metric(c, corpus), _DECIMALS), -c.similarity, -c.pattern.frequency, c.pattern.name

    return sorted(candidates, key=rank)


def _prediction(c: Candidate, corpus: Corpus, stm: Stm) -> Prediction:
    return Prediction(
        pattern=c.pattern,
        matches=c.matches,
        past=c.past,
        present=c.present,
        future=c.future,
        missing=c.missing,
        extras=c.extras(stm),
        metrics={name: metric(c, corpus) for name, metric in METRICS.items()},
    )


def _future_potentials(corpus: Corpus) -> tuple[FuturePotential, ...]:
    """Return the futures, the largest share first (to 12 decimals), ties by future."""
    ranked = sorted(corpus.futures.items(), key=lambda item: (-round(item[1].share, _DECIMALS), item[0]))
    return tuple(
        FuturePotential(
            future=future,
            aggregate_potential=weight.share,
            supporting_patterns=weight.candidates,
            total_weighted_frequency=weight.weight,
        )
        for future, weight in ranked
    )

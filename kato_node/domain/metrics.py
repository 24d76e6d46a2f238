"""The metrics of a prediction (processor.md, section 6), each a function of one candidate and its corpus.

Every sum is an `fsum`, which is exact before it rounds: no answer depends on the order in which patterns were learned.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kato_node.domain.candidate import Candidate
from kato_node.domain.ltm import LtmView
from kato_node.domain.state import Stm


@dataclass(frozen=True, slots=True, kw_only=True)
class Future:
    """One future, and the candidates behind it.

    Attributes:
        weight: the sum of frequency · similarity of the candidates that have this future.
        share: of the weights of all futures.
    """

    candidates: int
    weight: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What the metrics of one candidate need of the others and of the LTM.

    Attributes:
        symbol_count: distinct symbols of the LTM (T).
        frequency_sum: of all patterns (N).
        kept_frequency: of the kept candidates (F).
        document_share: p(x) of each symbol that is among the matches or missing of some candidate; that is, which is
            in its present. Every other symbol has 0.
        stm_weights: p(x) · count in the STM, of the STM's symbols that have a p(x).
        stm_norm: the sum of the squares of those.
        strength: the sum of similarity · prior over the candidates.
        futures: each non-empty future.
    """

    symbol_count: int
    frequency_sum: int
    kept_frequency: int
    document_share: Mapping[str, float]
    stm_weights: Mapping[str, float]
    stm_norm: float
    strength: float
    futures: Mapping[Stm, Future]


def corpus_of(candidates: Sequence[Candidate], stm_symbols: Sequence[str], ltm: LtmView) -> Corpus:
    """Return the corpus of all kept candidates."""
    known = set[str]().union(*(candidate.counts for candidate in candidates))
    share = {symbol: ltm.document_frequency(symbol) / ltm.pattern_count for symbol in known}
    weights = {symbol: share[symbol] * count for symbol, count in Counter(stm_symbols).items() if symbol in known}
    kept = sum(candidate.pattern.frequency for candidate in candidates)
    return Corpus(
        symbol_count=ltm.symbol_count,
        frequency_sum=ltm.frequency_sum,
        kept_frequency=kept,
        document_share=share,
        stm_weights=weights,
        stm_norm=_norm(weights.values()),
        strength=math.fsum(c.similarity * _ratio(c.pattern.frequency, kept) for c in candidates),
        futures=_futures(candidates),
    )


def _futures(candidates: Sequence[Candidate]) -> dict[Stm, Future]:
    weights: defaultdict[Stm, list[float]] = defaultdict(list)
    for candidate in candidates:
        if future := candidate.future:
            weights[future].append(candidate.pattern.frequency * candidate.similarity)
    sums = {future: math.fsum(parts) for future, parts in weights.items()}
    total = math.fsum(sums.values())
    return {
        future: Future(candidates=len(weights[future]), weight=weight, share=_ratio(weight, total))
        for future, weight in sums.items()
    }


def _ratio(part: float, whole: float) -> float:
    """Return part / whole, 0 of nothing."""
    return part / whole if whole else 0.0


def _norm(weights: Iterable[float]) -> float:
    return math.fsum([weight * weight for weight in weights])


def _frequency(c: Candidate, _: Corpus) -> float:
    return c.pattern.frequency


def _similarity(c: Candidate, _: Corpus) -> float:
    return c.similarity


def _evidence(c: Candidate, _: Corpus) -> float:
    return len(c.matches) / c.length


def _confidence(c: Candidate, _: Corpus) -> float:
    return _ratio(len(c.matches), c.present_length)


def _snr(c: Candidate, _: Corpus) -> float:
    signal, noise = 2 * len(c.matches), c.stm_length - len(c.matches)
    return _ratio(signal - noise, signal + noise)


def _fragmentation(c: Candidate, _: Corpus) -> float:
    return c.run_count - 1.0


def _itfdf_similarity(c: Candidate, corpus: Corpus) -> float:
    return 1.0 - _distance(c, corpus) * c.pattern.frequency / corpus.kept_frequency if corpus.kept_frequency else 0.0


def _distance(c: Candidate, corpus: Corpus) -> float:
    """Return the cosine distance of STM and present, each symbol weighted by its share of the patterns."""
    share, counts = corpus.document_share, c.counts
    norm = corpus.stm_norm * _norm([share[symbol] * count for symbol, count in counts.items()])
    if not norm:
        return 1.0
    common = [w * share[symbol] * counts[symbol] for symbol, w in corpus.stm_weights.items() if symbol in counts]
    return min(max(1.0 - math.fsum(common) / math.sqrt(norm), 0.0), 1.0)


def _potential(c: Candidate, corpus: Corpus) -> float:
    runs = 1 / c.run_count if c.run_count else 0.0
    merit = (_evidence(c, corpus) + _confidence(c, corpus)) * _snr(c, corpus)
    return merit + _itfdf_similarity(c, corpus) + runs


def _entropy(c: Candidate, _: Corpus) -> float:
    return _bits(count / c.present_length for count in c.counts.values())


def _normalized_entropy(c: Candidate, corpus: Corpus) -> float:
    return _normalized(_entropy(c, corpus), corpus)


def _global_normalized_entropy(c: Candidate, corpus: Corpus) -> float:
    return _normalized(_bits(corpus.document_share[symbol] for symbol in c.counts), corpus)


def _bits(shares: Iterable[float]) -> float:
    """Return -Σ share · log2 share; never -0.0."""
    return 0.0 - math.fsum(share * math.log2(share) for share in shares)


def _normalized(bits: float, corpus: Corpus) -> float:
    """Return the entropy in units of the LTM's distinct symbols, 0 where there is but one."""
    return bits / math.log2(corpus.symbol_count) if corpus.symbol_count > 1 else 0.0


def _confluence(c: Candidate, corpus: Corpus) -> float:
    chance = math.prod(corpus.document_share[symbol] ** count for symbol, count in c.counts.items())
    return _ratio(c.pattern.frequency, corpus.frequency_sum) * (1.0 - chance)


def _tfidf_score(c: Candidate, corpus: Corpus) -> float:
    share = corpus.document_share
    scores = (count / c.present_length * (1.0 - math.log2(share[symbol])) for symbol, count in c.counts.items())
    return math.fsum(scores) / len(c.counts)


def _pattern_probability(c: Candidate, corpus: Corpus) -> float:
    return _ratio(c.pattern.frequency, corpus.kept_frequency)


def _bayesian_posterior(c: Candidate, corpus: Corpus) -> float:
    return _ratio(_weighted_strength(c, corpus), corpus.strength)


def _weighted_strength(c: Candidate, corpus: Corpus) -> float:
    return c.similarity * _pattern_probability(c, corpus)


def _predictive_information(c: Candidate, corpus: Corpus) -> float:
    future = c.future
    return _ratio(_weighted_strength(c, corpus), corpus.futures[future].share) if future else 0.0


Metric: TypeAlias = Callable[[Candidate, Corpus], float]

# By name, in the order in which a prediction shows them.
METRICS: Mapping[str, Metric] = {
    "frequency": _frequency,
    "similarity": _similarity,
    "evidence": _evidence,
    "confidence": _confidence,
    "snr": _snr,
    "fragmentation": _fragmentation,
    "potential": _potential,
    "itfdf_similarity": _itfdf_similarity,
    "entropy": _entropy,
    "normalized_entropy": _normalized_entropy,
    "global_normalized_entropy": _global_normalized_entropy,
    "confluence": _confluence,
    "tfidf_score": _tfidf_score,
    "pattern_probability": _pattern_probability,
    "bayesian_prior": _pattern_probability,
    "bayesian_likelihood": _similarity,
    "bayesian_posterior": _bayesian_posterior,
    "weighted_strength": _weighted_strength,
    "predictive_information": _predictive_information,
}

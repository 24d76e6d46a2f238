"""Section 6 of processor.md once more, written down as plainly as it can be: slow, over all patterns, by difflib."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from kato_node.domain.learn import Pattern
from kato_node.domain.state import Event, Stm


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A pattern against an STM."""

    pattern: Pattern
    k: int
    matches: list[str]
    similarity: float
    past: Stm
    present: Stm
    future: Stm

    @property
    def symbols(self) -> list[str]:
        """The present's symbols (X)."""
        return flat(self.present)


def flat(events: Sequence[Event]) -> list[str]:
    """Return all symbols in a row."""
    return [symbol for event in events for symbol in event]


def match(pattern: Pattern, stm: Stm) -> Match:
    """Compare by difflib, and project onto the events."""
    p, s = flat(pattern.events), flat(stm)
    blocks = [block for block in SequenceMatcher(None, p, s, autojunk=False).get_matching_blocks() if block.size]
    matches = [symbol for block in blocks for symbol in p[block.a : block.a + block.size]]
    owner = [index for index, event in enumerate(pattern.events) for _ in event]
    first = owner[blocks[0].a] if blocks else 0
    last = owner[blocks[-1].a + blocks[-1].size - 1] if blocks else len(pattern.events) - 1
    return Match(
        pattern=pattern,
        k=len(blocks),
        matches=matches,
        similarity=2 * len(matches) / (len(p) + len(s)),
        past=pattern.events[:first],
        present=pattern.events[first : last + 1],
        future=pattern.events[last + 1 :],
    )


class Reference:
    """The metrics of every kept candidate."""

    def __init__(self, patterns: Sequence[Pattern], stm: Stm, threshold: float) -> None:
        compared = [match(pattern, stm) for pattern in patterns]
        self.kept = [one for one in compared if one.similarity >= threshold]
        self._s = flat(stm)
        self._u = len(patterns)
        self._t = len({symbol for pattern in patterns for symbol in flat(pattern.events)})
        self._n = sum(pattern.frequency for pattern in patterns)
        self._f = sum(one.pattern.frequency for one in self.kept)
        self._df = Counter(symbol for pattern in patterns for symbol in set(flat(pattern.events)))
        self._known = {symbol for one in self.kept for symbol in one.symbols}
        self._evidence = sum(one.similarity * one.pattern.frequency / self._f for one in self.kept)
        self._weights: defaultdict[Stm, float] = defaultdict(float)
        for one in self.kept:
            if one.future:
                self._weights[one.future] += one.pattern.frequency * one.similarity

    def p(self, symbol: str) -> float:
        """Return the share of the patterns that contain the symbol, 0 if no candidate has it."""
        return self._df[symbol] / self._u if symbol in self._known else 0.0

    def shares(self) -> dict[Stm, float]:
        """Return each future's share of all of them."""
        total = sum(self._weights.values())
        return {future: weight / total for future, weight in self._weights.items()}

    def metrics(self, one: Match) -> dict[str, float]:
        """Return the metrics of a kept candidate."""
        length, m, x = len(flat(one.pattern.events)), len(one.matches), one.symbols
        e = len(self._s) - m
        q = {symbol: count / len(x) for symbol, count in Counter(x).items()}
        prior = one.pattern.frequency / self._f
        strength = one.similarity * prior
        metrics = {
            "frequency": one.pattern.frequency,
            "similarity": one.similarity,
            "evidence": m / length,
            "confidence": m / len(x),
            "snr": (2 * m - e) / (2 * m + e) if m or e else 0.0,
            "fragmentation": float(one.k - 1),
            "itfdf_similarity": 1 - self._distance(x) * one.pattern.frequency / self._f,
            "entropy": -sum(v * math.log2(v) for v in q.values()),
            "normalized_entropy": -sum(v * self._log(v) for v in q.values()),
            "global_normalized_entropy": -sum(self.p(symbol) * self._log(self.p(symbol)) for symbol in q),
            "confluence": one.pattern.frequency / self._n * (1 - math.prod(self.p(symbol) for symbol in x)),
            "tfidf_score": sum(v * (math.log2(self._u / self._df[s]) + 1) for s, v in q.items()) / len(q),
            "pattern_probability": prior,
            "bayesian_prior": prior,
            "bayesian_likelihood": one.similarity,
            "bayesian_posterior": strength / self._evidence if self._evidence else 0.0,
            "weighted_strength": strength,
            "predictive_information": strength / self.shares()[one.future] if one.future else 0.0,
        }
        runs = 1 / (metrics["fragmentation"] + 1) if one.k else 0.0
        merit = (metrics["evidence"] + metrics["confidence"]) * metrics["snr"]
        return metrics | {"potential": merit + metrics["itfdf_similarity"] + runs}

    def _log(self, value: float) -> float:
        return math.log(value) / math.log(self._t) if self._t > 1 else 0.0

    def _distance(self, x: list[str]) -> float:
        symbols = sorted({*x, *self._s})
        a = [self.p(symbol) * self._s.count(symbol) for symbol in symbols]
        b = [self.p(symbol) * x.count(symbol) for symbol in symbols]
        if not any(a) or not any(b):
            return 1.0
        return min(max(1 - dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)), 0.0), 1.0)


def dot(a: list[float], b: list[float]) -> float:
    """Return the sum of the products."""
    return sum(x * y for x, y in zip(a, b, strict=True))

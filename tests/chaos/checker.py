"""Is there an order of the calls in which the pure domain gives every client the answer that it got?

The calls of one session are applied in their client's order, each between its invocation and its answer; a call that
was never answered is applied at most once, at any time after its invocation, or never. Whatever has no such order was
lost, doubled or reordered: which of them is found by allowing the least of each that makes an order possible.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tests.chaos.history import Call
from tests.chaos.model import Answer, ProcessorModel, applied

STEPS_MAX = 30_000
RELAXED_STEPS_MAX = 6_000
RELAXED_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is wrong with a history, and the words for it."""

    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    words: tuple[str, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            lost=self.lost + other.lost,
            doubled=self.doubled + other.doubled,
            reordered=self.reordered + other.reordered,
            words=self.words + other.words,
        )


def check(calls: Sequence[Call]) -> Findings:
    """Return what is wrong with the calls of a run."""
    by_processor: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_processor[call.processor_id].append(call)
    return sum((_checked(own) for own in by_processor.values()), Findings())


def _checked(calls: Sequence[Call]) -> Findings:
    search = _Search(calls, steps_max=STEPS_MAX)
    if search.succeeds():
        return Findings()
    words = (f"no order explains: {search.unexplained}",)
    for count in range(1, RELAXED_MAX + 1):
        for relaxed in (_Relaxed(lost=count), _Relaxed(doubled=count), _Relaxed(reordered=count)):
            if _Search(calls, steps_max=RELAXED_STEPS_MAX, relaxed=relaxed).succeeds():
                return Findings(lost=relaxed.lost, doubled=relaxed.doubled, reordered=relaxed.reordered, words=words)
    return replace(_guess(search.worst), words=words)


def _guess(worst: tuple[Answer, Answer] | None) -> Findings:
    """Return what more than a few mistakes look most like: counts that are too high were counted twice."""
    told, expected = worst or (Answer(), Answer())
    for name in ("time", "stm_length", "length", "patterns"):
        more, less = told.body.get(name), expected.body.get(name)
        if isinstance(more, int) and isinstance(less, int) and more > less:
            return Findings(doubled=1)
    return Findings(lost=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relaxed:
    """How many answered calls may be without effect, applied twice, overtaken by the next of their session."""

    lost: int = 0
    doubled: int = 0
    reordered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A point of the search.

    Attributes:
        places: how many of each session's answered calls are applied, from the first.
        beside: the calls that are applied besides: overtakers, and those that nobody answered.
        model: what has become of the processor.
        left: what may still be wrong.
    """

    places: tuple[int, ...]
    left: _Relaxed
    beside: frozenset[int] = frozenset()
    model: ProcessorModel = field(default_factory=ProcessorModel)

    @property
    def key(self) -> str:
        """The same for two points from which the same can follow."""
        patterns = sorted((one.name, one.frequency, str(one.emotives)) for one in self.model.patterns.values())
        sessions = sorted((name, str(one.state.stm), one.state.time) for name, one in self.model.sessions.items())
        return f"{self.places}{sorted(self.beside)}{patterns}{sessions}{self.left}"


class _Search:
    """Looks for an order of one processor's calls, depth first."""

    def __init__(self, calls: Sequence[Call], *, steps_max: int, relaxed: _Relaxed | None = None) -> None:
        answered: dict[str, list[int]] = defaultdict(list)
        for number, call in enumerate(calls):
            if call.answer is not None:
                answered[call.session_id].append(number)
        self.unexplained = "nothing was tried"
        self.worst: tuple[Answer, Answer] | None = None
        self._calls = calls
        self._sessions = list(answered.values())
        self._open = [number for number, call in enumerate(calls) if call.answer is None and call.op.changes]
        self._start = _Point(places=(0,) * len(self._sessions), left=relaxed or _Relaxed())
        self._steps_max = steps_max + len(calls)
        self._deepest = -1

    def succeeds(self) -> bool:
        """Whether there is one."""
        stack = [iter((self._start,))]
        seen: set[str] = set()
        for _ in range(self._steps_max):
            point = next(stack[-1], None)
            if point is None:
                stack.pop()
                if not stack:
                    return False
                continue
            if point.places == tuple(map(len, self._sessions)):
                return True
            if len(self._sessions) + len(self._open) > 1 or point.left != _Relaxed():
                if (key := point.key) in seen:
                    continue
                seen.add(key)
            stack.append(self._following(point))
        self.unexplained += " (the search was given up)"
        return False

    def _following(self, point: _Point) -> Iterator[_Point]:
        """Yield what one more call can make of the point, the most likely first."""
        heads = [
            numbers[place] for numbers, place in zip(self._sessions, point.places, strict=True) if place < len(numbers)
        ]
        heads.sort(key=lambda number: self._calls[number].answered or 0)
        until = self._calls[heads[0]].answered or 0
        expected: list[tuple[Call, Answer]] = []
        for number in heads:
            if self._calls[number].invoked <= until:
                yield from self._tried(point, number, expected)
        if expected and sum(point.places) > self._deepest:
            self._deepest = sum(point.places)
            self.unexplained = "; ".join(f"{call}, expected {answer}" for call, answer in expected)
            self.worst = (expected[0][0].answer or Answer(), expected[0][1])
        for number in self._open:
            if number not in point.beside and self._calls[number].invoked <= until:
                yield self._stepped(point, number)[0]
        if point.left.reordered:
            yield from self._overtaking(point)

    def _overtaking(self, point: _Point) -> Iterator[_Point]:
        left = replace(point.left, reordered=point.left.reordered - 1)
        for numbers, place in zip(self._sessions, point.places, strict=True):
            for number in numbers[place + 1 : place + 4]:
                if number not in point.beside:
                    yield from self._tried(replace(point, left=left), number, [])

    def _tried(self, point: _Point, number: int, expected: list[tuple[Call, Answer]]) -> Iterator[_Point]:
        call = self._calls[number]
        after, answer = self._stepped(point, number)
        if not matches(call.answer or Answer(), answer):
            expected.append((call, answer))
            return
        yield after
        if call.op.changes and point.left.doubled:
            left = replace(point.left, doubled=point.left.doubled - 1)
            yield replace(after, model=applied(after.model, call.session_id, call.op)[0], left=left)
        if call.op.changes and point.left.lost:
            yield replace(after, model=point.model, left=replace(point.left, lost=point.left.lost - 1))

    def _stepped(self, point: _Point, number: int) -> tuple[_Point, Answer]:
        """Return the point after one more call, and what its client is to be told."""
        call = self._calls[number]
        model, answer = applied(point.model, call.session_id, call.op)
        beside = point.beside | {number}
        places = list(point.places)
        for index, numbers in enumerate(self._sessions):
            while places[index] < len(numbers) and numbers[places[index]] in beside:
                beside -= {numbers[places[index]]}
                places[index] += 1
        return replace(point, places=tuple(places), beside=beside, model=model), answer


def matches(told: Answer, expected: Answer) -> bool:
    """Whether this is what the client was to be told. A reply that says that it may be stale tells nothing."""
    if told.body.get("degraded") is True:
        return True
    return told.code == expected.code and _holds(_plain(told.body), _plain(expected.body))


def _holds(told: object, expected: object) -> bool:
    """Whether a reply is what is expected of it, or more."""
    if isinstance(expected, dict) and isinstance(told, dict):
        return all(_holds(told.get(name), value) for name, value in expected.items())
    return told == expected


def _plain(body: object) -> object:
    """Return the body as it is after its way through JSON."""
    return json.loads(json.dumps(body))

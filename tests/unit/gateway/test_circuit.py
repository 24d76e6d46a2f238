"""When a circuit opens, what it lets through, and when it closes."""

from __future__ import annotations

import pytest

from kato_gateway.guard import PAUSE_MAX_S, QUICK_MAX, SLOW_S, Circuit, CircuitOpen


class _Away(Exception):
    """The other side is not there."""


class Side:
    """One side of a circuit, with a clock that is set by hand."""

    def __init__(self, chance: float = 1.0) -> None:
        self.time_s = 100.0
        self.circuit = Circuit("calls", _Away, clock_s=lambda: self.time_s, chance=lambda: chance)

    def fails(self, *, after_s: float = 0.0) -> None:
        """Make a call that fails."""
        with pytest.raises(_Away), self.circuit.call():
            self._end_with(_Away(), after_s)

    def answers(self, error: Exception, *, after_s: float) -> None:
        """Make a call that is answered with an error of its own."""
        with pytest.raises(type(error)), self.circuit.call():
            self._end_with(error, after_s)

    def _end_with(self, error: Exception, after_s: float) -> None:
        self.time_s += after_s
        raise error

    def is_asked(self) -> bool:
        """Make a call that would succeed; whether it was let through."""
        try:
            with self.circuit.call():
                return True
        except CircuitOpen:
            return False

    def is_refused(self) -> bool:
        """Whether a call that finds nothing out is refused."""
        try:
            self.circuit.check()
        except CircuitOpen:
            return True
        return False


def test_one_call_that_waited_long_opens_it() -> None:
    """A failure that took a second is enough."""
    side = Side()
    side.fails(after_s=SLOW_S)
    assert not side.is_asked()


def test_quick_failures_open_it_once_there_are_some_in_a_row() -> None:
    """Two refusals and an answer leave it closed, however often; three refusals in a row do not."""
    side = Side()
    for _ in range(5):
        side.fails()
        side.fails()
        assert side.is_asked()
    for _ in range(QUICK_MAX):
        side.fails()
    assert not side.is_asked()


def test_an_error_of_another_kind_is_an_answer() -> None:
    """Whoever refuses a call in its own right is there."""
    side = Side()
    for _ in range(2 * QUICK_MAX):
        side.answers(KeyError(), after_s=SLOW_S)
    assert side.is_asked()


def test_a_deadline_that_passed_opens_it() -> None:
    """Silence counts, whatever the clock says."""
    side = Side()
    with pytest.raises(TimeoutError), side.circuit.call():
        raise TimeoutError
    assert not side.is_asked()


def test_calls_that_waited_together_count_once() -> None:
    """Many callers who waited for one silence make no longer a pause than one."""
    side = Side()
    began = [side.circuit.call() for _ in range(8)]
    for call in began:
        call.__enter__()
    side.time_s += 5.0
    for call in began:
        assert not call.__exit__(_Away, _Away(), None)
    side.time_s += 0.25
    assert side.is_asked()


def test_one_call_at_a_time_finds_out() -> None:
    """After the pause one call is let through and no other until it has ended; its success closes the circuit."""
    side = Side()
    side.fails(after_s=SLOW_S)
    side.time_s += PAUSE_MAX_S
    with side.circuit.call():
        assert not side.is_asked()
        assert side.is_refused()
    assert side.is_asked()
    assert not side.is_refused()


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (1.0, 1.0)])
def test_pauses_double_up_to_a_bound_and_are_spread(chance: float, share: float) -> None:
    """Each failure doubles the pause, from a quarter of a second to four; a part of it is chance."""
    side = Side(chance)
    side.fails(after_s=SLOW_S)
    for pause_s in (0.25, 0.5, 1.0, 2.0, 4.0, 4.0):
        side.time_s += pause_s * share - 0.01
        assert side.is_refused()
        side.time_s += 0.02
        side.fails()


def test_a_caller_that_leaves_has_found_nothing_out() -> None:
    """A call that is cancelled neither opens nor closes it, and the next one finds out."""
    side = Side()
    side.fails(after_s=SLOW_S)
    side.time_s += PAUSE_MAX_S
    with pytest.raises(KeyboardInterrupt), side.circuit.call():
        raise KeyboardInterrupt
    assert side.circuit.is_open
    assert side.is_asked()
    assert not side.circuit.is_open


def test_an_answer_that_tells_nothing_closes_nothing() -> None:
    """While it is open such an answer is one more failure, before that it is none."""
    side = Side()
    for _ in range(2 * QUICK_MAX):
        with side.circuit.call() as trial:
            trial.told = False
    assert not side.circuit.is_open
    side.fails(after_s=SLOW_S)
    side.time_s += PAUSE_MAX_S
    with side.circuit.call() as trial:
        trial.told = False
    assert not side.is_asked()


def test_the_return_of_the_other_side_is_told() -> None:
    """A circuit that closes has those of the same other side asked again at once, however long their pause still is."""
    side = Side()
    herald = Circuit("reads", _Away, clock_s=lambda: side.time_s, heralds=[side.circuit])
    with pytest.raises(TimeoutError), herald.call():
        raise TimeoutError
    for _ in range(8):
        side.fails(after_s=SLOW_S)
        side.time_s += PAUSE_MAX_S
    side.fails()
    side.time_s += PAUSE_MAX_S / 4
    assert side.is_refused()
    with herald.call():
        pass
    assert side.is_asked()

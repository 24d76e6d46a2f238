"""Processes that are only tasks: each can be killed, or stopped for a while, at every await of everything that it does.

Time is virtual: it passes when nobody has anything to do, and then at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar, cast

T = TypeVar("T")

_current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Process:
    """What runs together and dies together.

    Attributes:
        alive: False once it was killed.
        steps: how often one of its tasks went on from an await.
        died: called once, when it is killed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.steps = 0
        self.died: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._alarms: list[tuple[int, Callable[[], None]]] = []
        self._resumed: asyncio.Future[None] | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task of this process."""
        context = contextvars.copy_context()
        context.run(_current.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def owns(self, task: asyncio.Task[Any]) -> None:
        """Count a task as one of this process."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def after(self, steps: int, happens: Callable[[], None]) -> None:
        """Have something happen after so many more steps of this process, before the next."""
        self._alarms.append((self.steps + steps, happens))

    def disarm(self) -> None:
        """Have nothing happen any more that was to."""
        self._alarms.clear()

    def kill(self) -> None:
        """End it at this very moment: none of its tasks does anything any more."""
        if not self.alive:
            return
        self.alive = False
        self.resume()
        for task in tuple(self._tasks):
            task.cancel()
        self.died()

    def stop(self) -> None:
        """Stop it, as SIGSTOP does: its tasks go on from no await until it is resumed."""
        if self.alive and self._resumed is None:
            self._resumed = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        """Let it go on."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    @property
    def stopped(self) -> asyncio.Future[None] | None:
        """What a stopped process waits for; None while it runs."""
        return self._resumed

    def step(self) -> None:
        """Count one step, and let happen what is due before it."""
        self.steps += 1
        due = [happens for at, happens in self._alarms if at <= self.steps]
        if due:
            self._alarms = [(at, happens) for at, happens in self._alarms if at > self.steps]
            for happens in due:
                happens()


class _Stepped(Coroutine[Any, Any, T]):
    """A task's coroutine, whose process may be dead or stopped whenever it is about to go on."""

    def __init__(self, inner: Coroutine[Any, Any, T], process: Process) -> None:
        self._inner = inner
        self._process = process
        self._held: tuple[Any, BaseException | None] | None = None

    def send(self, value: Any) -> Any:
        """See Coroutine."""
        return self._go_on(value, None)

    def throw(
        self,
        error: type[BaseException] | BaseException,
        value: BaseException | object = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        """See Coroutine."""
        return self._go_on(None, error if isinstance(error, BaseException) else error())

    def close(self) -> None:
        """See Coroutine."""
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, T]:
        raise TypeError("a task's coroutine is awaited by its task alone")

    def _go_on(self, value: Any, error: BaseException | None) -> Any:
        if self._held is not None:  # what it was to go on with before it was stopped; an error came later, and counts
            value, error = self._held[0], error or self._held[1]
            self._held = None
        self._process.step()
        if not self._process.alive:
            with contextlib.suppress(BaseException):  # its last words: whatever it still wants to do is refused
                self._inner.close()
            raise asyncio.CancelledError
        stopped = self._process.stopped
        if stopped is not None:
            self._held = (value, error)
            waiting = asyncio.ensure_future(asyncio.shield(stopped))
            waiting._asyncio_future_blocking = True  # how `await` tells a task
            return waiting
        return self._inner.send(value) if error is None else self._inner.throw(error)


STEP_S = 1e-9


class _NoWaiting(selectors.SelectSelector):
    """Never waits: what is waited for is a time, and time is moved on to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See BaseSelector. Raises: RuntimeError if nothing can ever happen any more."""
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everybody waits for somebody")
            self.now_s += max(timeout, STEP_S)  # as time does, however little there is to wait for
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual, and whose tasks belong to the process that started them."""

    def __init__(self) -> None:
        self._no_waiting = _NoWaiting()
        super().__init__(self._no_waiting)
        self.set_task_factory(_new_task)  # type: ignore[arg-type]  # typeshed names no context
        self.set_exception_handler(lambda _loop, _context: None)  # what died unheard is heard of in the history

    def time(self) -> float:
        """Return virtual seconds."""
        return self._no_waiting.now_s


def _new_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], context: contextvars.Context | None = None
) -> asyncio.Task[T]:
    process = _current.get() if context is None else context.get(_current)
    if process is None:
        return asyncio.Task(work, loop=loop, context=context)
    task = asyncio.Task(cast("Coroutine[Any, Any, T]", _Stepped(work, process)), loop=loop, context=context)
    process.owns(task)
    return task

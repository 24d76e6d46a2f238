"""The one worker thread of a node: predictions, vector neighbours and statistics, off the event loop."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from kato_node.domain.config import Config
from kato_node.domain.ltm import Ltm
from kato_node.domain.predict import predict
from kato_node.domain.state import Stm, Vector
from kato_node.domain.vectors import neighbors_of
from kato_node.errors import WrongNode
from kato_node.replies import Shown, shown
from kato_node.thread import DedicatedThread

T = TypeVar("T")

REMEMBERED_MAX = 16


class Predictor:
    """Computes one thing at a time; remembers the newest answers, which are never to be changed in place."""

    def __init__(self) -> None:
        self._thread: DedicatedThread | None = DedicatedThread("matching")
        self._turn = asyncio.Lock()
        self._remembered: OrderedDict[tuple[Stm, int, Config], Shown] = OrderedDict()

    async def ranking(self, stm: Stm, config: Config, ltm: Ltm) -> Shown:
        """Return what the STM is like and what comes next, for the LTM as it is when the work begins."""
        if (known := self._recalled(stm, config, ltm)) is not None:
            return known
        async with self._turn:
            if (known := self._recalled(stm, config, ltm)) is not None:
                return known
            view = ltm.view()
            answer = await self._run(lambda: shown(predict(stm, config=config, ltm=view)))
            self._remembered[stm, view.version, config] = answer
            if len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)
            return answer

    async def neighbors(
        self, vectors: Sequence[Sequence[float]], learned: Mapping[str, Vector], config: Config
    ) -> Sequence[str]:
        """Return the learned vector symbols that join the event. Raises: VectorDimensionMismatch."""
        if not vectors or not learned or not config.vector_neighbors:
            return ()
        copied = dict(learned)  # the LTM may change meanwhile
        async with self._turn:
            return await self._run(lambda: neighbors_of(vectors, copied, config=config))

    async def worked_out(self, call: Callable[[], T]) -> T:
        """Return what a function of values answers, worked out when it is its turn."""
        async with self._turn:
            return await self._run(call)

    def close(self) -> None:
        """Let go of the thread, without waiting for what it is doing."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    def _recalled(self, stm: Stm, config: Config, ltm: Ltm) -> Shown | None:
        key = (stm, ltm.version, config)
        if key in self._remembered:
            self._remembered.move_to_end(key)
        return self._remembered.get(key)

    async def _run(self, call: Callable[[], T]) -> T:
        if self._thread is None:
            raise WrongNode("This node has ended; ask the gateway for the session's node.")
        return await self._thread.run(call)

"""The worker thread, and what it is given to work with."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kato_node.domain.config import DEFAULT
from kato_node.domain.state import Vector
from kato_node.errors import WrongNode
from kato_node.predictor import Predictor


async def test_neighbours_are_those_of_the_moment_of_asking() -> None:
    """What is learned while the question waits for the thread changes nothing of its answer."""
    predictor = Predictor()
    free = threading.Event()
    busy = asyncio.create_task(predictor.worked_out(free.wait))
    learned: dict[str, Vector] = {"far": (9.0, 9.0)}
    config = DEFAULT.updated({"vector_neighbors": 1})
    asking = asyncio.create_task(predictor.neighbors([(0.0, 0.0)], learned, config))
    await asyncio.sleep(0)
    learned["near"] = (0.0, 0.1)
    free.set()
    assert list(await asking) == ["far"]
    await busy
    predictor.close()
    with pytest.raises(WrongNode):
        await predictor.worked_out(free.wait)

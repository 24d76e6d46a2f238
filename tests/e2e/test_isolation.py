"""Isolation under load."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.gateway_process import gateway

SESSIONS, OBSERVATIONS = 100, 20


def test_a_hundred_sessions_on_one_node(tmp_path: Path) -> None:
    """100 sessions on one node_id, 20 observations each, interleaved: every STM is exactly its own, in order."""
    with gateway(tmp_path / "home") as running, ThreadPoolExecutor(16) as threads:
        names = [f"s{number}" for number in range(SESSIONS)]

        def create(name: str) -> str:
            place: str = running.ask("POST", "/sessions", {"session_id": name, "node_id": "shared"})["external_url"]
            return place

        def observe(name: str, step: int) -> None:
            running.ask("POST", f"/sessions/{name}/observe", {"strings": [f"{name}-{step}"]})

        assert len(set(threads.map(create, names))) == 1
        for step in range(OBSERVATIONS):
            list(threads.map(observe, names, [step] * SESSIONS))
        stms = list(threads.map(lambda name: running.ask("GET", f"/sessions/{name}/stm")["stm"], names))
        assert stms == [[[f"{name}-{step}"] for step in range(OBSERVATIONS)] for name in names]

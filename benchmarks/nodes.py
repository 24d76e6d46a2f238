"""A node's life: created from the pool, woken, replaced after kill -9."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from benchmarks.frame import Measure, benchmark, median, timed_ms
from examples.gateway import gateway

CREATES, KILLS = 30, 10


@benchmark
def create_warm() -> Measure:
    """POST /sessions to the first acknowledged observe, one after the other."""
    with gateway() as url, httpx.Client(base_url=url, timeout=30) as client:

        def create() -> None:
            session = client.post("/sessions", json={}).raise_for_status().json()["session_id"]
            client.post(f"/sessions/{session}/observe", json={"strings": ["a"]}).raise_for_status()

        samples = [timed_ms(create) for _ in range(CREATES)]
    return _milliseconds(samples, limit=20)


@benchmark
def recover_node() -> Measure:
    """kill -9 of a node to the next good reply on its session."""
    with gateway() as url, httpx.Client(base_url=url, timeout=30) as client:
        session = client.post("/sessions", json={}).raise_for_status().json()["session_id"]
        samples = []
        for _ in range(KILLS):
            port = client.get(f"/sessions/{session}").raise_for_status().json()["port"]
            os.kill(_listener(port), signal.SIGKILL)
            samples.append(timed_ms(lambda: client.get(f"/sessions/{session}/stm").raise_for_status()))
    return _milliseconds(samples, limit=500)


@benchmark
def node_memory() -> Measure:
    """Private memory of an idle node."""
    with gateway() as url, httpx.Client(base_url=url, timeout=30) as client:
        ports = [client.post("/sessions", json={}).raise_for_status().json()["port"] for _ in range(5)]
        samples = [_private_mb(_listener(port)) for port in ports]
    value = median(samples)
    return Measure(value=value, unit="MB", target="<= 16 MB", holds=value <= 16, samples={"private_mb": samples})


def _milliseconds(samples: list[float], *, limit: float) -> Measure:
    value = median(samples)
    return Measure(value=value, unit="ms", target=f"<= {limit:g} ms", holds=value <= limit, samples={"ms": samples})


def _listener(port: int) -> int:
    """Return the process that listens on a loopback port; the fork server hands each socket to one node."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or gone meanwhile
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections("tcp4")):
                return process.pid
    raise LookupError(f"nobody listens on port {port}")


def _private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

"""One call: what durability costs, and what forwarding adds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.frame import Measure, benchmark, interleaved, median
from examples.gateway import gateway

ROUNDS, CALLS = 5, 200
OBSERVATION = {"strings": ["alpha", "beta"], "emotives": {"joy": 0.5}}


@benchmark
def observe_http() -> Measure:
    """A durable observe straight at a node, over a bare FastAPI POST of the same model plus one fdatasync."""
    with gateway() as url, bare() as bare_url, tempfile.TemporaryFile() as file, httpx.Client() as client:
        node = client.post(f"{url}/sessions", json={}).raise_for_status().json()["external_url"]

        def observe() -> None:
            client.post(f"{node}/observe", json=OBSERVATION).raise_for_status()

        def bare_and_flush() -> None:
            client.post(f"{bare_url}/observe", json=OBSERVATION).raise_for_status()
            os.pwrite(file.fileno(), b"x" * 4096, 0)
            os.fdatasync(file.fileno())

        ours, floor = interleaved(observe, bare_and_flush, rounds=ROUNDS, calls=CALLS)
    ratio = median(ours) / median(floor)
    return Measure(
        value=ratio,
        unit="x",
        target="<= 1.5x",
        holds=ratio <= 1.5,
        versus=f"{median(ours):.2f} ms over {median(floor):.2f} ms",
        samples={"observe": ours, "bare": floor},
    )


@benchmark
def gateway_latency() -> Measure:
    """What the gateway adds to a read, over the same read straight at the node."""
    with gateway() as url, httpx.Client() as client:
        session = client.post(f"{url}/sessions", json={}).raise_for_status().json()
        direct, through = f"{session['external_url']}/stm", f"{url}/sessions/{session['session_id']}/stm"
        near, far = interleaved(lambda: client.get(direct), lambda: client.get(through), rounds=ROUNDS, calls=CALLS)
    added = median(far) - median(near)
    return Measure(
        value=added,
        unit="ms",
        target="<= 0.12 ms",
        holds=added <= 0.12,
        versus=f"{median(far):.2f} ms over {median(near):.2f} ms",
        samples={"direct": near, "through": far},
    )


@contextmanager
def bare() -> Iterator[str]:
    """Yield the address of a FastAPI service that parses an observation and does nothing with it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what it accepts, as at a node
        command = [sys.executable, str(Path(__file__).with_name("bare.py")), str(listener.fileno())]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait()

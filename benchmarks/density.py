"""How many nodes live at once: each session is asked for its own STM, once a second, all in the same ten seconds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import psutil

import kato_node
from benchmarks.frame import Measure, benchmark, median
from examples.gateway import gateway

PROCESSES, CONTAINERS = 300, 100
SECONDS = 10
CREATORS = 4  # clients that create at the same time: an engine is not quicker with more
TIMEOUT_S = 120.0

_IMAGE = f"kato-platform:{kato_node.__version__}"
_STAND_IN = f"kato-test-mongo:{kato_node.__version__}"
_NO_WAY_OUT = "com.docker.network.bridge.enable_ip_masquerade=false"


@dataclass(slots=True, kw_only=True)
class Crowd:
    """What was seen of a crowd of sessions.

    Attributes:
        creates_ms: POST /sessions to its reply, of each.
        answers_ms: of each question.
        wrong: questions that were not answered, or with another session's STM.
        sated: sessions that had all their answers in time.
        node_bytes: memory of the machine that one node took, everything that serves it included.
        left: nodes that there were after the sessions had been deleted.
    """

    creates_ms: list[float] = field(default_factory=list)
    answers_ms: list[float] = field(default_factory=list)
    wrong: int = 0
    sated: int = 0
    node_bytes: float = 0.0
    left: int = -1


@benchmark
def density() -> Measure:
    """Processes, on SQLite."""
    with gateway(WARM_POOL_SIZE="0") as url:
        return _measured(crowd(url, PROCESSES), PROCESSES)


@benchmark
def density_docker() -> Measure:
    """Containers, on the stand-in for MongoDB in a container beside them."""
    if not all(_is_there(image) for image in (_IMAGE, _STAND_IN)):
        return Measure(
            value=0,
            unit="nodes",
            target=f">= {CONTAINERS}",
            holds=False,
            versus="no Docker engine that has the images: make image test-mongo-image",
            samples={},
        )
    with _docker_settings() as settings, gateway(**settings, WARM_POOL_SIZE="0") as url:
        return _measured(crowd(url, CONTAINERS), CONTAINERS)


def crowd(url: str, count: int) -> Crowd:
    """Create that many sessions, ask each for its STM once a second, delete them, and wait for the end of the nodes."""
    found = Crowd()
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        names = [f"session-{n}" for n in range(count)]
        free_bytes = psutil.virtual_memory().available
        with ThreadPoolExecutor(CREATORS) as creators:
            found.creates_ms = list(creators.map(lambda name: _create(client, name), names))
        found.node_bytes = (free_bytes - psutil.virtual_memory().available) / count
        _ask_all(client, names, found)
        with ThreadPoolExecutor(CREATORS) as creators:
            list(creators.map(lambda name: client.delete(f"/sessions/{name}").raise_for_status(), names))
        give_up_at_s = time.monotonic() + TIMEOUT_S
        while (
            left := len(client.get("/nodes").raise_for_status().json()["nodes"])
        ) and time.monotonic() < give_up_at_s:
            time.sleep(0.1)
        found.left = left
    return found


def _create(client: httpx.Client, name: str) -> float:
    began = time.perf_counter()
    client.post("/sessions", json={"session_id": name}).raise_for_status()
    created_ms = (time.perf_counter() - began) * 1e3
    client.post(f"/sessions/{name}/observe", json={"strings": [name]}).raise_for_status()
    return created_ms


def _ask_all(client: httpx.Client, names: Sequence[str], found: Crowd) -> None:
    """Ask each session SECONDS times, a second apart, spread over the second; each by a thread of its own."""
    lock = threading.Lock()
    begin_s = time.monotonic() + 1.0

    def ask(number: int, name: str) -> None:
        answers_ms, wrong = [], 0
        for second in range(SECONDS):
            time.sleep(max(0.0, begin_s + second + number / len(names) - time.monotonic()))
            began = time.perf_counter()
            reply = client.get(f"/sessions/{name}/stm")
            answers_ms.append((time.perf_counter() - began) * 1e3)
            wrong += not reply.is_success or reply.json()["stm"] != [[name]]
        in_time = time.monotonic() < begin_s + SECONDS + 1.0
        with lock:
            found.answers_ms += answers_ms
            found.wrong += wrong
            found.sated += in_time and not wrong

    with ThreadPoolExecutor(len(names)) as clients:
        for asked in [clients.submit(ask, number, name) for number, name in enumerate(names)]:
            asked.result()


def _measured(found: Crowd, target: int) -> Measure:
    answers_ms = sorted(found.answers_ms)
    return Measure(
        value=found.sated,
        unit="nodes",
        target=f">= {target}",
        holds=found.sated >= target and not found.wrong and not found.left,
        versus=(
            f"create {median(found.creates_ms):.0f} ms, at most {max(found.creates_ms):.0f} ms; answer"
            f" {median(answers_ms):.1f} ms, p99 {answers_ms[int(len(answers_ms) * 0.99)]:.0f} ms;"
            f" {found.node_bytes / 2**20:.0f} MB a node; {found.left} left"
        ),
        samples={"creates": found.creates_ms, "answers": found.answers_ms},
    )


@contextmanager
def _docker_settings() -> Iterator[dict[str, str]]:
    """Run the stand-in for MongoDB on a network of its own; yield what a gateway is told to use both."""
    name = f"kato-bench-{uuid4().hex[:8]}"
    _docker("network", "create", "--opt", _NO_WAY_OUT, name)
    try:
        _docker("run", "--detach", "--name", name, "--network", name, _STAND_IN)
        address = _docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)
        mongo_url = f"mongodb://{address}:27017/?directConnection=true"
        yield {"RUNTIME": "docker", "NODE_IMAGE": _IMAGE, "NODE_NETWORK": name, "MONGO_URL": mongo_url}
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)
        _docker("network", "rm", name)


def _is_there(image: str) -> bool:
    if shutil.which("docker") is None:
        return False
    return not subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()

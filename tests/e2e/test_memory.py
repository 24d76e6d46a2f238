"""What was learned, corrected, deleted, taken out and put in, through a real gateway and real nodes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kato_node.domain.learn import pattern_name
from tests.e2e.gateway_process import Gateway, gateway


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Run a gateway for the tests of this module."""
    with gateway(tmp_path_factory.mktemp("home")) as started:
        yield started


def session(running: Gateway) -> str:
    """Make a session with a processor of its own; return its path."""
    return f"/sessions/{running.ask('POST', '/sessions', {})['session_id']}"


def learned(running: Gateway, path: str, *symbols: str) -> str:
    """Learn a pattern of these symbols, an event each; return its name."""
    for symbol in symbols:
        running.ask("POST", f"{path}/observe", {"strings": [symbol]})
    name: str = running.ask("POST", f"{path}/learn")["pattern_name"]
    return name


def lines(count: int, *, padding: int = 0) -> Iterator[bytes]:
    """Yield an export of so many patterns, each line of at least so many bytes."""
    yield json.dumps({"format": "kato-patterns", "version": 1, "patterns": count}).encode() + b"\n"
    for number in range(count):
        events = (("a",), (f"b{number}",))
        line = {"name": pattern_name(events), "pattern_data": events, "frequency": 1}
        yield json.dumps(line).encode().ljust(padding) + b"\n"


def test_correction_and_deletion_through_the_gateway(running: Gateway) -> None:
    """A PUT changes the next prediction, a DELETE removes the pattern from it, at the root as under the session."""
    path = session(running)
    rare, often = learned(running, path, "a", "b", "c"), learned(running, path, "a", "b", "d")
    learned(running, path, "a", "b", "d")
    for symbol in "ab":
        running.ask("POST", f"{path}/observe", {"strings": [symbol]})

    def predicted() -> list[str]:
        return [found["name"] for found in running.ask("GET", f"{path}/predictions")["predictions"]]

    assert predicted() == [often, rare]
    assert running.ask("PUT", f"{path}/pattern/{rare}", {"frequency": 9})["pattern"]["frequency"] == 9
    assert predicted() == [rare, often]
    session_id = path.rpartition("/")[2]
    assert running.ask("DELETE", f"/pattern/{rare}", x_session_id=session_id)["status"] == "deleted"
    assert predicted() == [often]
    assert set(running.ask("GET", f"{path}/symbols/stats")["symbols"]) == {"a", "b", "d"}
    assert running.ask("GET", f"{path}/patterns")["total"] == 1
    assert running.call("POST", f"{path}/pattern/{often}").status_code == 405


def test_an_export_moves_a_memory_to_another_processor(running: Gateway) -> None:
    """What one session exports another imports; both predict the same, byte for byte."""
    source, target = session(running), session(running)
    for symbols in ("abc", "abd", "xy"):
        learned(running, source, *symbols)
    exported = running.client.get(f"{running.url}{source}/export").content
    done = running.client.post(f"{running.url}{target}/import", content=exported).json()
    assert (done["imported"], done["skipped"]) == (3, 0)
    for path in (source, target):
        for symbol in "ab":
            running.ask("POST", f"{path}/observe", {"strings": [symbol]})
    one, other = (running.ask("GET", f"{path}/predictions") for path in (source, target))
    assert json.dumps(one["predictions"]) == json.dumps(other["predictions"])


def test_an_import_of_any_length_passes_the_gateway(running: Gateway) -> None:
    """A body past the limit of every other call is imported as it comes; the same body is refused anywhere else."""
    path = session(running)
    body = b"".join(lines(200, padding=100_000))
    assert len(body) > 16 * 2**20
    done = running.client.post(f"{running.url}{path}/import", content=body, timeout=60)
    assert (done.status_code, done.json()["imported"]) == (200, 200), done.text
    refused = running.client.post(f"{running.url}{path}/observe", content=body)
    assert refused.json()["error"]["code"] == "BODY_TOO_LARGE"
    bad = running.client.post(f"{running.url}{path}/import", content=b"{}\n" + body, timeout=60)
    assert (bad.status_code, bad.json()["error"]["details"]["line"]) == (422, 1)


def test_an_import_whose_node_is_killed_in_the_middle_applies_once(tmp_path: Path) -> None:
    """The call fails and names no lie; sent again, what had been committed is skipped and the rest comes in."""
    with gateway(tmp_path, WARM_POOL_SIZE="0") as running:
        path = session(running)
        [pid] = running.nodes().values()
        count, half = 4_000, threading.Event()

        def content() -> Iterator[bytes]:
            for number, line in enumerate(lines(count, padding=1_000)):
                if number == count // 2:
                    half.wait()
                yield line

        def kill() -> None:
            with httpx.Client(base_url=running.url, timeout=30) as client:
                while client.get(f"{path}/patterns?limit=1").json()["total"] < 512:
                    pass
            os.kill(pid, signal.SIGKILL)
            half.set()

        killer = threading.Thread(target=kill)
        killer.start()
        reply = running.client.post(f"{running.url}{path}/import", content=content(), timeout=60)
        killer.join()
        assert reply.json()["error"]["code"] == "NODE_FAILED"
        done = running.client.post(f"{running.url}{path}/import", content=lines(count, padding=1_000), timeout=60)
        assert done.status_code == 200, done.text
        assert done.json()["skipped"] >= 512
        assert done.json()["imported"] + done.json()["skipped"] == count
        symbols = running.ask("GET", f"{path}/symbols/stats")["symbols"]
        assert symbols["a"] == {"frequency": count, "pattern_member_frequency": count}

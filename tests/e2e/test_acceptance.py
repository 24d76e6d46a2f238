"""The acceptance tests that the original specification names, against a real gateway with real nodes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.gateway_process import Gateway, Json, eventually, gateway

NAME_ABC = "PTRN|b98534b32c1d7489d4ce1a48724aa65aeecbdba9"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a pool of two."""
    with gateway(tmp_path_factory.mktemp("acceptance") / "home", WARM_POOL_SIZE="2") as one:
        yield one


def session(running: Gateway, **wanted: object) -> str:
    """Create a session; return its id."""
    session_id: str = running.ask("POST", "/sessions", wanted)["session_id"]
    return session_id


def observe(running: Gateway, session_id: str, *symbols: str) -> None:
    """Observe the symbols, an event each."""
    for symbol in symbols:
        running.ask("POST", f"/sessions/{session_id}/observe", {"strings": [symbol]})


def stm(running: Gateway, session_id: str) -> list[list[str]]:
    """Return the session's STM."""
    found: list[list[str]] = running.ask("GET", f"/sessions/{session_id}/stm")["stm"]
    return found


def futures(running: Gateway, session_id: str) -> list[object]:
    """Return the future of each of the session's predictions."""
    return [one["future"] for one in running.ask("GET", f"/sessions/{session_id}/predictions")["predictions"]]


def events(*symbols: str) -> list[list[str]]:
    """Return an STM of these symbols."""
    return [[symbol] for symbol in symbols]


def test_stm_isolation_different_node_ids(running: Gateway) -> None:
    """Sessions of different node_ids share neither STM nor what they learn."""
    first, second = session(running, node_id="apart-1"), session(running, node_id="apart-2")
    observe(running, first, "a", "b", "c")
    observe(running, second, "x")
    assert (stm(running, first), stm(running, second)) == (events("a", "b", "c"), events("x"))
    running.ask("POST", f"/sessions/{first}/learn")
    running.ask("POST", f"/sessions/{second}/clear-stm")
    for each in (first, second):
        observe(running, each, "a", "b")
    assert futures(running, first) == [events("c")]
    assert futures(running, second) == []
    assert running.call("GET", f"/sessions/{second}/pattern/{NAME_ABC}").status_code == 404


def test_stm_isolation_same_node_id(running: Gateway) -> None:
    """Sessions of one node_id share what is learned, and neither STM, emotives, percept nor configuration."""
    first, second = session(running, node_id="same"), session(running, node_id="same")
    running.ask("POST", f"/sessions/{first}/observe", {"strings": ["a"], "emotives": {"joy": 1}})
    running.ask("POST", f"/sessions/{first}/genes/update", {"genes": {"max_predictions": 7}})
    assert stm(running, second) == []
    assert running.ask("GET", f"/sessions/{second}/percept-data")["percept_data"] == {}
    assert running.ask("GET", f"/sessions/{second}/cognition-data")["cognition_data"]["emotives"] == {}
    assert running.ask("GET", f"/sessions/{second}/gene/max_predictions")["gene_value"] == 100
    observe(running, first, "b", "c")
    running.ask("POST", f"/sessions/{first}/learn")
    observe(running, second, "a", "b")
    assert futures(running, second) == [events("c")]
    assert stm(running, first) == []


def test_stm_isolation_concurrent_same_node(running: Gateway) -> None:
    """Eight sessions of one node_id that observe at the same time each have their own observations, all, in order."""
    ids = [session(running, node_id="busy") for _ in range(8)]
    wanted = {each: [f"{number}-{n}" for n in range(40)] for number, each in enumerate(ids)}
    with ThreadPoolExecutor(len(ids)) as pool:
        list(pool.map(lambda each: observe(running, each, *wanted[each]), ids))
    for each in ids:
        assert stm(running, each) == events(*wanted[each])


def test_get_or_create_session_isolation(running: Gateway) -> None:
    """Asked for at once by several, a session_id is created once; another id is another session with its own STM."""
    wanted = {"session_id": "wanted", "user_id": "ann"}
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: running.call("POST", "/sessions", wanted), range(6)))
    assert sorted(reply.status_code for reply in replies) == [200] * 5 + [201]
    assert len({reply.json()["created_at"] for reply in replies}) == 1
    assert len({reply.json()["container_name"] for reply in replies}) == 1
    observe(running, "wanted", "a")
    other = session(running, session_id="wanted-too", user_id="ann")
    assert stm(running, other) == []
    assert running.ask("POST", "/sessions", wanted)["session_id"] == "wanted"
    assert stm(running, "wanted") == events("a")
    refused = running.call("POST", "/sessions", {**wanted, "user_id": "bob"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")


def test_stm_isolation_after_learn(running: Gateway) -> None:
    """A learn empties the STM of its session alone; the others' stay, and so does what they do next."""
    first, second = session(running, node_id="learning"), session(running, node_id="learning")
    observe(running, first, "a", "b", "c")
    observe(running, second, "a", "b")
    assert running.ask("POST", f"/sessions/{first}/learn")["pattern_name"] == NAME_ABC
    assert (stm(running, first), stm(running, second)) == ([], events("a", "b"))
    observe(running, second, "c")
    assert stm(running, second) == events("a", "b", "c")
    assert running.ask("POST", f"/sessions/{second}/learn")["pattern_name"] == NAME_ABC
    assert running.ask("GET", f"/sessions/{first}/pattern/{NAME_ABC}")["pattern"]["frequency"] == 2


def test_basic_session_isolation(running: Gateway) -> None:
    """Two sessions by default have nothing in common: processor, node, STM, patterns; ending one leaves the other."""
    first, second = (running.ask("POST", "/sessions", {"user_id": user}) for user in ("ann", "bob"))
    assert first["processor_id"] != second["processor_id"]
    assert first["container_name"] != second["container_name"]
    observe(running, first["session_id"], "a")
    observe(running, second["session_id"], "b")
    running.ask("DELETE", f"/sessions/{first['session_id']}")
    assert running.call("GET", f"/sessions/{first['session_id']}/stm").status_code in {404, 410}
    assert stm(running, second["session_id"]) == events("b")


def test_concurrent_session_operations(running: Gateway) -> None:
    """Calls of one session at the same time, mixed, are each applied once and never tear its state."""
    one = session(running)
    with ThreadPoolExecutor(8) as pool:
        writing = [pool.submit(observe, running, one, f"s{n}") for n in range(60)]
        reading = [pool.submit(running.ask, "GET", f"/sessions/{one}/{read}") for read in ("stm", "predictions") * 10]
        assert all(job.result() is None for job in writing)
        assert all(job.result()["session_id"] == one for job in reading)
    assert sorted(stm(running, one)) == sorted(events(*(f"s{n}" for n in range(60))))
    assert running.ask("GET", f"/sessions/{one}/status")["time"] == 60
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: running.ask("POST", f"/sessions/{one}/learn")["pattern_name"], range(8)))
    assert sorted(names)[:7] == [""] * 7
    assert running.ask("GET", f"/sessions/{one}/pattern/{max(names)}")["pattern"]["frequency"] == 1


def test_backward_compatibility(running: Gateway) -> None:
    """The v1 paths at the root, /session/… and /v2/sessions/… mean the same sessions as /sessions/…."""
    created = running.call("POST", "/session/create", {"user_id": "old"})
    one = created.json()["session_id"]
    assert created.status_code == 201
    running.ask("POST", f"/session/{one}/observe", {"strings": ["a"]})
    running.ask("POST", f"/v2/sessions/{one}/observe", {"strings": ["b"]})
    running.ask("POST", "/observe", {"strings": ["c"]}, x_session_id=one)
    for reply in (
        running.call("GET", "/short-term-memory", x_session_id=one),
        running.call("GET", "/stm", x_session_id=one),
        *(
            running.call("GET", f"{place}/{one}/short-term-memory")
            for place in ("/sessions", "/session", "/v2/sessions")
        ),
    ):
        assert reply.json()["stm"] == events("a", "b", "c")
    assert running.ask("POST", "/learn", x_session_id=one)["pattern_name"] == NAME_ABC
    running.ask("POST", "/clear-all-memory")
    for symbol in ("a", "b", "c"):
        assert running.ask("POST", "/observe", {"strings": [symbol]})["session_id"] == "default"
    assert running.ask("POST", "/learn")["pattern_name"] == NAME_ABC
    running.ask("POST", "/observe-sequence", {"observations": [{"strings": ["a"]}, {"strings": ["b"]}]})
    assert running.ask("POST", "/predictions")["predictions"][0]["future"] == events("c")
    assert running.ask("GET", "/gene/recall_threshold")["gene_value"] == 0.1
    assert running.ask("POST", "/clear-short-term-memory")["message"] == "stm-cleared"
    assert running.ask("DELETE", f"/v2/sessions/{one}")["status"] == "deleted"


def test_observation_sequence(running: Gateway) -> None:
    """A sequence is observed as one call, in order and all or nothing, and learned at its end if asked for."""
    one = session(running)
    observations = [{"strings": [symbol]} for symbol in "abc"]
    done = running.ask("POST", f"/sessions/{one}/observe-sequence", {"observations": observations})
    assert [item["stm_length"] for item in done["results"]] == [1, 2, 3]
    assert (done["observations_processed"], done["final_learned_pattern"]) == (3, None)
    bad = {"observations": [*observations, {"strings": [1]}], "learn_at_end": True}
    assert running.call("POST", f"/sessions/{one}/observe-sequence", bad).status_code == 422
    assert stm(running, one) == events("a", "b", "c")
    running.ask("POST", f"/sessions/{one}/clear-stm")
    whole = {"observations": observations, "learn_at_end": True}
    done = running.ask("POST", f"/sessions/{one}/observe-sequence", whole)
    assert (done["final_learned_pattern"], done["final_stm_length"]) == (NAME_ABC, 0)


def test_container_isolation(running: Gateway) -> None:
    """Each session's node is a process of its own with its own port; killing one disturbs no other."""
    first, second = (running.ask("POST", "/sessions") for _ in range(2))
    ids = [first["session_id"], second["session_id"]]
    for each in ids:
        observe(running, each, each)
    pids = [running.pid_of(each) for each in ids]
    assert len({*pids, running.process.pid}) == 3
    assert first["port"] != second["port"]
    os.kill(pids[0], signal.SIGKILL)
    assert stm(running, ids[1]) == events(ids[1])
    assert running.pid_of(ids[1]) == pids[1]
    assert stm(running, ids[0]) == events(ids[0])
    assert running.pid_of(ids[0]) not in pids


def test_concurrent_containers(tmp_path: Path) -> None:
    """Twelve sessions created at once get twelve nodes, none of them shared, and all work at the same time."""
    with gateway(tmp_path / "home", WARM_POOL_SIZE="3") as running:

        def work(number: int) -> tuple[Json, list[list[str]]]:
            created = running.ask("POST", "/sessions", {"user_id": f"u{number}"})
            observe(running, created["session_id"], *(f"{number}-{n}" for n in range(10)))
            return created, stm(running, created["session_id"])

        with ThreadPoolExecutor(12) as pool:
            done = list(pool.map(work, range(12)))
        for number, (_, found) in enumerate(done):
            assert found == events(*(f"{number}-{n}" for n in range(10)))
        assert len({created["container_name"] for created, _ in done}) == 12
        assert len({created["port"] for created, _ in done}) == 12
        assert len({running.pid_of(created["session_id"]) for created, _ in done}) == 12
        eventually(lambda: len(running.nodes()) == 15, "a full pool beside them")

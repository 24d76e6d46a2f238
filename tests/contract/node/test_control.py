"""The control routes: for whoever has the node's secret, and unknown routes for everybody else."""

from __future__ import annotations

import pytest

from kato_node.settings import Settings
from kato_node.store.base import StoreUnavailable
from kato_node.wire.control import BindReply, BindRequest, Identity, OpenSession, SessionInfo, Vitals
from kato_node.wire.tokens import Grant, issued
from tests.contract.node.serving import PROCESSOR, SECRET, TOKEN_KEY, Served, error_of, serving_node

KNOWN = {"X-Kato-Secret": SECRET}
ROUTES = [
    ("POST", "/control/bind"),
    ("GET", "/control/identity"),
    ("POST", "/control/sessions"),
    ("GET", "/control/sessions/s-1"),
    ("DELETE", "/control/sessions/s-1"),
    ("POST", "/control/sessions/s-1/config"),
    ("GET", "/control/vitals"),
    ("POST", "/control/drain"),
    ("PUT", "/control/bind"),
]


def binding(**more: object) -> str:
    """Return a BindRequest of PROCESSOR and its own session s-1, as JSON."""
    session = OpenSession(session_id="s-1", incarnation="i-1", config={"recall_threshold": 0.3})
    request = BindRequest(processor_id=PROCESSOR, idle_timeout_s=0, session=session, own_session=True)
    return request.model_copy(update=more).model_dump_json()


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_the_secret_there_are_no_control_routes(served: Served, method: str, path: str) -> None:
    """Without the secret, or with a wrong one, the reply is that of an unknown route to the last byte."""
    unknown = await served.http.request(method, "/unknown", headers={"X-Request-ID": "1"})
    for headers in ({}, {"X-Kato-Secret": ""}, {"X-Kato-Secret": SECRET[:-1]}, {"X-Kato-Secret": SECRET + "x"}):
        reply = await served.http.request(method, path, headers={"X-Request-ID": "1", **headers})
        assert (reply.status_code, reply.content) == (404, unknown.content)
        assert reply.headers.keys() == unknown.headers.keys()
    assert served.node.state == "bound"


async def test_a_node_without_a_secret_has_no_control_routes() -> None:
    """Without a secret of its own no header opens the control routes."""
    async with serving_node(settings=Settings(processor_id=PROCESSOR)) as served:
        for given in ("", "None", SECRET):
            reply = await served.http.get("/control/identity", headers={"X-Kato-Secret": given})
            assert reply.status_code == 404


async def test_a_node_is_bound_once() -> None:
    """POST /control/bind binds an unbound node to a processor and its own session; again is 409 CONFLICT."""
    async with serving_node(bound=False) as served:
        identity = await served.http.get("/control/identity", headers=KNOWN)
        assert Identity.model_validate_json(identity.content) == Identity(node_id="node-1", state="unbound")
        reply = await served.http.post("/control/bind", content=binding(), headers=KNOWN)
        bound = BindReply.model_validate_json(reply.content)
        assert bound.identity == Identity(
            node_id="node-1", state="bound", processor_id=PROCESSOR, epoch=1, sessions=["s-1"]
        )
        assert bound.session is not None
        assert (bound.session.created, bound.session.config["recall_threshold"]) == (True, 0.3)
        observed = await served.http.post("/observe", json={"strings": ["a"]})
        assert observed.json()["session_id"] == "s-1"
        again = await served.http.post("/control/bind", content=binding(), headers=KNOWN)
        assert (again.status_code, error_of(again)["code"]) == (409, "CONFLICT")


async def test_a_bind_brings_the_key_of_the_processors_tokens() -> None:
    """A node that requires tokens takes those under the key that it was bound with; bound without one it takes none."""
    settings = Settings(node_secret=SECRET, require_token=True)
    token = issued(Grant(session_id="s-1", processor_id=PROCESSOR), key=TOKEN_KEY)
    for key, status in ((TOKEN_KEY, 200), ("another-processor-s-key", 401), (None, 401)):
        async with serving_node(settings=settings, bound=False) as served:
            assert (await served.http.get("/stm", headers={"Authorization": f"Bearer {token}"})).status_code == 421
            await served.http.post("/control/bind", content=binding(token_key=key), headers=KNOWN)
            reply = await served.http.get("/stm", headers={"Authorization": f"Bearer {token}"})
            assert reply.status_code == status


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{}", "processor_id"),
        ('{"processor_id": "../x", "idle_timeout_s": 0}', "processor_id"),
        ('{"processor_id": "p\\n", "idle_timeout_s": 0}', "processor_id"),
        ('{"processor_id": "p", "idle_timeout_s": -1}', "idle_timeout_s"),
        ('{"processor_id": "p", "idle_timeout_s": NaN}', "idle_timeout_s"),
        ('{"processor_id": "p", "idle_timeout_s": 0, "more": 1}', "more"),
    ],
)
async def test_a_bad_control_message_is_named(body: str, field: str) -> None:
    """A control message that is not what wire.control says is a VALIDATION_ERROR; the node stays unbound."""
    async with serving_node(bound=False) as served:
        reply = await served.http.post("/control/bind", content=body, headers=KNOWN)
        error = error_of(reply)
        assert (reply.status_code, error["code"]) == (422, "VALIDATION_ERROR")
        assert error["details"]["errors"][0]["field"] == field  # type: ignore[index]
        assert served.node.state == "unbound"


async def test_a_failed_bind_can_be_repeated() -> None:
    """A bind that the store, or the session's config, refuses leaves the node unbound and is repeated with success."""
    async with serving_node(bound=False) as served:
        served.disk.unavailable = True
        reply = await served.http.post("/control/bind", content=binding(), headers=KNOWN)
        assert (reply.status_code, error_of(reply)["code"]) == (503, StoreUnavailable.code)
        served.disk.unavailable = False
        bad = OpenSession(session_id="s-1", incarnation="i-1", config={"persistence": 0})
        reply = await served.http.post("/control/bind", content=binding(session=bad), headers=KNOWN)
        assert (reply.status_code, error_of(reply)["code"]) == (422, "VALIDATION_ERROR")
        assert (await served.http.post("/control/bind", content=binding(), headers=KNOWN)).status_code == 200


async def test_sessions_are_opened_read_and_closed(served: Served) -> None:
    """Sessions are opened (again: found), told, and closed (again: no error) by control calls; a close that names
    another incarnation leaves the session as it is, and one that names none is refused.
    """
    opening = OpenSession(session_id="s-2", incarnation="i-1").model_dump_json()
    for created in (True, False):
        reply = await served.http.post("/control/sessions", content=opening, headers=KNOWN)
        assert SessionInfo.model_validate_json(reply.content).created is created
    await served.http.post("/observe", json={"strings": ["a"]}, headers={"X-Session-ID": "s-2"})
    reply = await served.http.get("/control/sessions/s-2", headers=KNOWN)
    info = SessionInfo.model_validate_json(reply.content)
    assert (info.session_id, info.stm_length, info.time) == ("s-2", 1, 1)
    reply = await served.http.delete("/control/sessions/s-2", headers=KNOWN)
    assert (reply.status_code, error_of(reply)["code"]) == (422, "VALIDATION_ERROR")
    reply = await served.http.delete("/control/sessions/s-2?incarnation=i-0", headers=KNOWN)
    assert "s-2" in Identity.model_validate_json(reply.content).sessions
    for _ in range(2):
        reply = await served.http.delete("/control/sessions/s-2?incarnation=i-1", headers=KNOWN)
        assert "s-2" not in Identity.model_validate_json(reply.content).sessions
    reply = await served.http.get("/control/sessions/s-2", headers=KNOWN)
    assert (reply.status_code, error_of(reply)["code"]) == (404, "SESSION_NOT_FOUND")


async def test_a_drain_ends_the_node(served: Served) -> None:
    """POST /control/drain answers `draining` at once, and the server ends."""
    reply = await served.http.post("/control/drain", headers=KNOWN)
    assert Identity.model_validate_json(reply.content).state == "draining"
    await served.serving
    assert (served.node.stop_reason, served.node.stopped.is_set()) == ("drained", True)


async def test_a_bind_can_begin_with_a_purge() -> None:
    """A node bound with `purge` finds no session, pattern, vector or dimension of what its processor had."""
    async with serving_node(bound=False) as served:
        await served.http.post("/control/bind", content=binding(), headers=KNOWN)
        await served.http.post("/observe", json={"strings": ["a", "b"], "vectors": [[1.0, 2.0]]})
        learned = (await served.http.post("/learn")).json()["pattern_name"]
        disk = served.disk
    async with serving_node(disk=disk, bound=False) as served:
        reply = await served.http.post("/control/bind", content=binding(purge=True), headers=KNOWN)
        assert BindReply.model_validate_json(reply.content).identity.sessions == ["s-1"]
        assert (await served.http.get("/stm")).json()["stm"] == []
        assert (await served.http.get(f"/pattern/{learned}")).status_code == 404
        other_dimension = {"vectors": [[1.0]], "strings": ["c"]}
        assert (await served.http.post("/observe", json=other_dimension)).status_code == 200


async def test_the_gateway_configures_a_session(served: Served) -> None:
    """POST /control/sessions/{id}/config changes values whole or not at all, and answers the effective config."""
    session = OpenSession(session_id="s-1", incarnation="i-1").model_dump_json()
    await served.http.post("/control/sessions", content=session, headers=KNOWN)
    path = "/control/sessions/s-1/config"
    reply = await served.http.post(path, json={"config": {"recall_threshold": 0.7}}, headers=KNOWN)
    assert SessionInfo.model_validate_json(reply.content).config["recall_threshold"] == 0.7
    both = {"config": {"recall_threshold": 0.9, "persistence": 0}}
    assert error_of(await served.http.post(path, json=both, headers=KNOWN))["code"] == "VALIDATION_ERROR"
    reply = await served.http.get("/control/sessions/s-1", headers=KNOWN)
    assert SessionInfo.model_validate_json(reply.content).config["recall_threshold"] == 0.7


async def test_a_node_says_how_it_is(served: Served) -> None:
    """GET /control/vitals has the node's resident memory and how long it has been idle."""
    vitals = Vitals.model_validate_json((await served.http.get("/control/vitals", headers=KNOWN)).content)
    assert vitals.memory_bytes > 2**20
    assert vitals.idle_s >= 0

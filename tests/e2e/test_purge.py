"""Purging a processor, as a user does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.gateway_process import Gateway, gateway


def learned(served: Gateway, session_id: str) -> str:
    """Have a session on processor `shared` learn a pattern; return its name."""
    served.ask("POST", "/sessions", {"session_id": session_id, "node_id": "shared"})
    served.ask("POST", f"/sessions/{session_id}/observe", {"strings": ["a", "b"]})
    name: str = served.ask("POST", f"/sessions/{session_id}/learn")["pattern_name"]
    return name


@pytest.mark.parametrize("asleep", [False, True])
def test_a_purged_processor_knows_nothing(tmp_path: Path, asleep: bool) -> None:
    """DELETE ?purge=true leaves nothing that a later session of the node_id could find, whether its node ran or not."""
    with gateway(tmp_path / "home") as served:
        name = learned(served, "first")
        if asleep:
            served.ask("DELETE", "/nodes/shared")
        ended = served.ask("DELETE", "/sessions/first?purge=true")
        assert (ended["purged"], ended["processor_id"]) == (True, "shared")
        served.ask("POST", "/sessions", {"session_id": "second", "node_id": "shared"})
        assert served.call("GET", f"/sessions/second/pattern/{name}").status_code == 404
        assert served.ask("GET", "/sessions/second/status")["patterns"] == 0


def test_another_session_protects_its_processor(tmp_path: Path) -> None:
    """While another session uses the processor, a purge is 409 CONFLICT and both go on; without purge it ends."""
    with gateway(tmp_path / "home") as served:
        name = learned(served, "first")
        served.ask("POST", "/sessions", {"session_id": "second", "node_id": "shared"})
        refused = served.call("DELETE", "/sessions/first?purge=true")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")
        assert served.ask("GET", f"/sessions/first/pattern/{name}")["pattern"]["frequency"] == 1
        assert served.ask("DELETE", "/sessions/first")["purged"] is False
        assert served.ask("GET", f"/sessions/second/pattern/{name}")["pattern"]["frequency"] == 1

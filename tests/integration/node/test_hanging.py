"""Storage that hangs under a node that runs as a program."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from tests.integration.node.programs import observe, running, stm
from tests.processes import until

# Each COMMIT behind the first waits for ever, once it has told; a drain is not patient.
HANGING = """
import sys, threading
from pathlib import Path
from kato_node.node import Node
from kato_node.store.sqlite import SqliteStore

end, commits = SqliteStore._end, []

def hang(self, connection):
    commits.append(connection)
    if len(commits) > 1:
        Path(told).touch()
        threading.Event().wait()
    end(self, connection)

SqliteStore._end = hang
Node.__init__.__kwdefaults__["drain_max_s"] = 0.1
from kato_node.__main__ import main
told = sys.argv.pop()
sys.exit(main())
"""


async def test_sigterm_ends_a_node_whose_storage_hangs(tmp_path: Path) -> None:
    """SIGTERM is not held up by a commit that never returns: its caller is told that the outcome is unknown, the exit
    status is 1, and a successor has what was acknowledged.
    """
    told = tmp_path / "told"
    program = (sys.executable, "-c", HANGING, str(told))
    async with running(tmp_path, program=program) as node:
        await observe(node.http, "a")
        call = asyncio.create_task(node.http.post("/observe", json={"strings": ["b"]}))
        await until(told.exists, what="the commit")
        node.process.send_signal(signal.SIGTERM)
        reply = await call
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")
        assert "may be applied or not" in reply.json()["error"]["message"]
        assert await node.ended() == 1
    async with running(tmp_path) as successor:
        assert await stm(successor.http) == [["a"]]

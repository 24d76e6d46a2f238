"""A node of tests.chaos.real.node that can do two things more, when a file orders it (tests/chaos/real/points.py).

kill-gateway        after its next commit its gateway is killed, whose pid HOME/chaos/gateway says
lost-message        its next message to a WebSocket breaks the connection off instead
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from kato_node.store.base import Batch
from tests.chaos.real import node, points

KILL_GATEWAY = "kill-gateway"
LOST_MESSAGE = "lost-message"


class OnceStore(node.ChaosStore):
    """A store whose commits obey one order more."""

    async def commit(self, batch: Batch, *, epoch: int) -> None:
        """See Store."""
        await super().commit(batch, epoch=epoch)
        if batch.sessions and self._obeys(KILL_GATEWAY):
            os.kill(int((self._home / "chaos" / "gateway").read_text()), signal.SIGKILL)


def run(env: Mapping[str, str], sock: socket.socket) -> int:
    """Run a node; see kato_node.__main__.run."""
    home = Path(env["KATO_HOME"])
    send = WebSocketsSansIOProtocol.send

    async def lossy(self: WebSocketsSansIOProtocol, message: Any) -> None:
        named = dict(self.scope["headers"]).get(b"x-kato-processor", b"").decode() if self.scope else ""
        if message["type"] == "websocket.send" and points.taken(home, named, LOST_MESSAGE):
            self.transport.abort()
            return
        await send(self, message)

    with mock.patch.object(node, "ChaosStore", OnceStore), mock.patch.object(WebSocketsSansIOProtocol, "send", lossy):
        return node.run(env, sock)

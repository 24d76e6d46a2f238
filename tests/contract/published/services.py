"""Both services as users have them, real processes, and the table of everything that each of them serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from kato_node.wire.strict_json import Json
from kato_node.wire.tokens import node_secret
from tests.e2e.gateway_process import gateway

METHODS = ("get", "put", "post", "delete", "patch")
DEPLOYMENT_SECRET = "the-secret-of-this-deployment"
SECRET = node_secret(DEPLOYMENT_SECRET, "node-1")
_RUN_NODE = (
    "import socket, sys; from kato_node.__main__ import run;"
    "sys.exit(run({'NODE_ID': 'node-1', 'PROCESSOR_ID': 'p', 'KATO_HOME': sys.argv[1],"
    " 'DEPLOYMENT_SECRET_FILE': sys.argv[2]},"
    " socket.socket(fileno=int(sys.argv[3]))))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One documented call: its path as the document has it, and what the document says of it."""

    path: str
    method: str
    described: Mapping[str, Any]
    shared: tuple[Mapping[str, Any], ...] = ()

    @property
    def parameters(self) -> list[Mapping[str, Any]]:
        """Every parameter, those of the path item included."""
        return [*self.shared, *self.described.get("parameters", ())]

    @property
    def content(self) -> tuple[str, Mapping[str, Any]] | None:
        """The body's media type and what is said of it; None for a call without a body."""
        if "requestBody" not in self.described:
            return None
        [(kind, content)] = self.described["requestBody"]["content"].items()
        return kind, content


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service that runs, and a client of it."""

    name: str
    url: str
    client: httpx.Client

    @property
    def document(self) -> dict[str, Any]:
        """Its OpenAPI document."""
        found: dict[str, Any] = self.client.get("/openapi.json").raise_for_status().json()
        return found

    def calls(self) -> list[Call]:
        """Return each documented call, in the document's order."""
        return [
            Call(path=path, method=method.upper(), described=item[method], shared=tuple(item.get("parameters", ())))
            for path, item in self.document["paths"].items()
            for method in item
            if method in METHODS
        ]

    def socket(self, path: str = "/ws") -> ClientConnection:
        """Open a WebSocket."""
        return connect(self.url.replace("http", "ws", 1) + path, max_size=None)

    def ask(self, method: str, path: str, body: Json = None) -> dict[str, Any]:
        """Send one request that must succeed; return the reply's body."""
        reply = self.client.request(method, path, json=body)
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text}"
        answer: dict[str, Any] = reply.json()
        return answer


@contextmanager
def running_node(home: Path) -> Iterator[Service]:
    """Run a static node on an embedded store; at the end it drains and exits 0."""
    home.mkdir(parents=True)
    secret = home / "secret"
    secret.write_text(DEPLOYMENT_SECRET)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        number = listener.fileno()
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        node = subprocess.Popen(
            [sys.executable, "-c", _RUN_NODE, str(home), str(secret), str(number)],
            pass_fds=[number],
            stderr=subprocess.DEVNULL,
            env=inherited,
        )
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            client.get("/health").raise_for_status()
            yield Service(name="node", url=url, client=client)
    finally:
        node.terminate()
        assert node.wait() == 0


@contextmanager
def running_gateway(home: Path, **settings: str) -> Iterator[Service]:
    """Run a gateway with real nodes."""
    with gateway(home, **settings) as running, httpx.Client(base_url=running.url, timeout=60) as client:
        yield Service(name="gateway", url=running.url, client=client)


SERVICES = {"node": running_node, "gateway": running_gateway}

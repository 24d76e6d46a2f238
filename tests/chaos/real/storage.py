"""What a real installation stores in, and how somebody from outside meddles with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from kato_node.store.base import Store, StoreError
from kato_node.store.mongo import MongoStore
from kato_node.store.mongo_connection import Connection
from kato_node.store.sqlite import SqliteStore
from tests.engine import LABEL, docker
from tests.mongo import StandIn, mongo_in_container
from tests.tcpproxy import TcpProxy, proxied

DATABASE = "kato"
DISK_BYTES = 96 * 2**20
_BALLAST_BYTES = 4096
_PARTING_S = 0.2
_COMMIT = b"commitTransaction"


class Storage(Protocol):
    """One kind."""

    @property
    def settings(self) -> Mapping[str, str]:
        """By which the gateway finds it."""

    @property
    def troubles(self) -> Mapping[str, Trouble]:
        """What can go wrong with it, by name: from the beginning to the end of the block, or at once."""

    def store(self, processor_id: str) -> Store:
        """Return a processor's store, past everything that may be wrong."""


# Told of the processor; yields whether it has really happened.
Trouble = Callable[[str], "contextlib.AbstractAsyncContextManager[bool]"]


async def taken_over(storage: Storage, processor_id: str) -> None:
    """Take the processor, as a node does that is gone at once."""
    store = storage.store(processor_id)
    with contextlib.suppress(StoreError):
        await store.open()
        await store.bind()
    await store.close()


class SqliteFiles:
    """SQLite files in a home."""

    def __init__(self, home: Path) -> None:
        self.settings: Mapping[str, str] = {}
        self.troubles: Mapping[str, Trouble] = {
            "lock-storage": lambda processor_id: _locked(self._file(processor_id)),
            "lock-registry": lambda _processor_id: _locked(home / "gateway.sqlite"),
            "fill-disk": lambda _processor_id: _filled(home),
        }
        self._home = home

    def store(self, processor_id: str) -> Store:
        """See Storage."""
        return SqliteStore(self._file(processor_id), processor_id)

    def _file(self, processor_id: str) -> Path:
        return self._home / "processors" / f"{processor_id}.sqlite"


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[bool]:
    """Hold a database's writer lock."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0.0)
    try:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("BEGIN IMMEDIATE")
        yield connection.in_transaction
    finally:
        connection.close()


@asynccontextmanager
async def _filled(home: Path) -> AsyncIterator[bool]:
    """Leave nothing of a small disk; a large one is left alone."""
    facts = os.statvfs(home)
    if facts.f_bavail * facts.f_frsize > 2 * DISK_BYTES:
        yield False
        return
    ballast = home / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(_BALLAST_BYTES))
        yield True
    finally:
        ballast.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mongo:
    """A server of the MongoDB protocol; `url` is past the proxy that `settings` name."""

    url: str
    settings: Mapping[str, str]
    troubles: Mapping[str, Trouble]

    def store(self, processor_id: str) -> Store:
        """See Storage."""
        return MongoStore(Connection(self.url, DATABASE), processor_id)


@asynccontextmanager
async def mongo(path: Path) -> AsyncIterator[Mongo]:
    """Run a server, with a proxy before it that everybody uses."""
    with StandIn(path / "mongo") as server:
        async with proxied(server.address) as proxy:
            url = f"mongodb://{proxy.address[0]}:{proxy.address[1]}/?directConnection=true"
            storage = Mongo(
                url=server.url,
                settings={"MONGO_URL": url, "MONGO_DATABASE": DATABASE, "RUNTIME": "process"},
                troubles={
                    "refuse-storage": lambda _: _spoilt(proxy.refuse, proxy.restore),
                    "hold-storage": lambda _: _spoilt(proxy.hold, proxy.restore),
                    "cut-storage": lambda _: _spoilt(proxy.cut, lambda: None),
                    "swallow-commit": lambda _: _spoilt(lambda: _swallowing(proxy), lambda: None),
                    "freeze-storage": lambda _: _spoilt(server.freeze, server.thaw),
                    "kill-storage": lambda _: _killed(server),
                },
            )
            try:
                yield storage
            finally:
                proxy.refuse()
                await asyncio.sleep(_PARTING_S)  # connections that end by themselves need not be cancelled


def _swallowing(proxy: TcpProxy) -> None:
    proxy.swallow_reply(lambda data: _COMMIT in data)


@asynccontextmanager
async def _spoilt(begin: Callable[[], object], end: Callable[[], object]) -> AsyncIterator[bool]:
    begin()
    try:
        yield True
    finally:
        end()


@asynccontextmanager
async def _killed(server: StandIn) -> AsyncIterator[bool]:
    await asyncio.to_thread(server.kill)
    try:
        yield True
    finally:
        await asyncio.to_thread(server.start)


@contextmanager
def mongo_of_containers(image: str) -> Iterator[Mongo]:
    """Run a server in a container, on a network for nodes in containers."""
    network = f"kato-chaos-{uuid4().hex[:8]}"
    docker("network", "create", "--label", LABEL, network)
    try:
        with mongo_in_container(network) as url:
            settings = {"RUNTIME": "docker", "NODE_IMAGE": image, "NODE_NETWORK": network}
            yield Mongo(url=url, settings={**settings, "MONGO_URL": url, "MONGO_DATABASE": DATABASE}, troubles={})
    finally:
        docker("network", "rm", network)


@contextmanager
def directory(*, small_disk: bool) -> Iterator[Path]:
    """Yield a directory: on the disk, or on a small one of its own where that can be mounted."""
    with tempfile.TemporaryDirectory(prefix="kato-chaos-", ignore_cleanup_errors=True) as text:
        path = Path(text)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", text]
        mounted = small_disk and not subprocess.run(command, check=False, capture_output=True).returncode
        try:
            yield path
        finally:
            if mounted:
                subprocess.run(["umount", "-l", text], check=False, capture_output=True)

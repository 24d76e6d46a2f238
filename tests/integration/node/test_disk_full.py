"""A disk without room: what needs some is refused in words, nothing is torn, and all goes on once there is some again.

The disk is a real one of a few MiB (tmpfs), so that each of SQLite's writes can be the one that fails: to the -wal in
the middle of a commit, to the file itself in a checkpoint, to all three when they are made.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import cast

import pytest

from kato_node.domain.learn import display_name, pattern_name
from kato_node.domain.observation import Observation
from kato_node.node import BindSpec, Node
from kato_node.service import Reply, RetryKey, SequenceRequest
from kato_node.store import sqlite
from kato_node.store.base import StoreFull
from tests.integration.node.programs import observe, running, stm
from tests.integration.node.worker import new_node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk that fills up")

SIZE_BYTES = 8 * 2**20
PAGE_BYTES = 4096
BIND = BindSpec(processor_id="p")
XY = SequenceRequest(observations=[Observation(strings=["x"]), Observation(strings=["y"])], learn_at_end=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A small disk.

    Attributes:
        root: where it is mounted.
    """

    root: Path

    @property
    def _ballast(self) -> Path:
        return self.root / "ballast"

    @property
    def free_bytes(self) -> int:
        """How much room there is."""
        return shutil.disk_usage(self.root).free

    def fill(self, *, leave_bytes: int = 0) -> None:
        """Take all the room but so much."""
        missing = self.free_bytes - leave_bytes
        if missing > 0:
            with self._ballast.open("ab") as file:
                file.write(bytes(missing))

    def clear(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def remount(self, option: str) -> None:
        """Change one of its options."""
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.root)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of SIZE_BYTES."""
    root = tmp_path / "disk"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "kato-test", str(root)], check=True)
    try:
        yield Disk(root=root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoint after every few pages, so that the file itself grows with almost every commit."""
    plain = sqlite._connect

    def connect(path: Path) -> sqlite3.Connection:
        connection = plain(path)
        connection.execute("PRAGMA wal_autocheckpoint = 4")
        return connection

    monkeypatch.setattr(sqlite, "_connect", connect)


@asynccontextmanager
async def bound(disk: Disk) -> AsyncIterator[Node]:
    """Bind a node to a file on the disk; drain it afterwards."""
    node = new_node(disk.root / "p.sqlite")
    await node.bind(BIND)
    try:
        yield node
    finally:
        await node.drain()


def retry(key: str) -> RetryKey:
    """Return what makes a call repeatable."""
    return RetryKey(key=key, body_hash="0" * 64)


def seen(symbol: str) -> Observation:
    """Return an observation of this symbol."""
    return Observation(strings=[symbol])


async def events(node: Node) -> list[str]:
    """Return the symbols of the STM, one an event."""
    found = cast("tuple[tuple[str, ...], ...]", (await node.reads.stm(None))["stm"])
    return [event[0] for event in found]


async def frequency(node: Node, *symbols: str) -> object:
    """Return how often the pattern of these single-symbol events was learned."""
    name = display_name(pattern_name(tuple((symbol,) for symbol in symbols)))
    return cast("Reply", (await node.reads.pattern(name))["pattern"])["frequency"]


async def test_a_full_disk_refuses_and_recovers(disk: Disk) -> None:
    """Writes are refused in words, reads go on unmarked, and once there is room the very same calls succeed; a
    successor finds exactly what was acknowledged.
    """
    async with bound(disk) as node:
        for symbol in ("a", "b"):
            await node.service.observe(None, seen(symbol))
        await node.service.learn(None)
        for symbol in ("a", "b"):
            await node.service.observe(None, seen(symbol))
        disk.fill()
        calls = [
            partial(node.service.observe, None, seen("c" * 60_000), retry=retry("1")),
            partial(node.service.observe, None, seen("d"), retry=retry("2")),
            partial(node.service.learn, None, retry=retry("3")),
        ]
        for _ in range(3):
            with pytest.raises(StoreFull, match="the disk is full"):
                await calls[0]()
        reply = await node.reads.stm(None)
        assert (reply["stm"], reply.get("degraded")) == ((("a",), ("b",)), None)
        assert (await node.reads.predictions(None))["count"] == 1
        disk.clear()
        for call in calls:
            await call()
    async with bound(disk) as node:
        assert await events(node) == []
        assert await frequency(node, "a", "b") == 1
        assert await frequency(node, "a", "b", "c" * 60_000, "d") == 1


@pytest.mark.parametrize("checkpoints", ["seldom", "often"])
async def test_whichever_write_fails_nothing_is_torn(
    disk: Disk, request: pytest.FixtureRequest, checkpoints: str
) -> None:
    """With room for 0, 1, 2, … pages, calls of random sizes are acknowledged or refused, and memory, and the file as a
    successor finds it, hold exactly the acknowledged ones: in the STM, and in the frequencies.
    """
    if checkpoints == "often":
        request.getfixturevalue("eager")
    chance = Random(20_261)
    held: list[str] = []
    learned = 1
    refused = 0
    async with bound(disk) as node:
        await node.service.open_session("learner", incarnation="1", overrides={})
        await node.service.observe_sequence("learner", XY)
    for pages in range(24):
        async with bound(disk) as node:
            disk.fill(leave_bytes=pages * PAGE_BYTES)
            for number in range(12):
                symbol = f"{pages}.{number} " + "z" * chance.choice((1, 100, 5_000, 20_000))
                try:
                    await node.service.observe(None, seen(symbol))
                    held.append(symbol)
                    await node.service.observe_sequence("learner", XY)
                    learned += 1
                except StoreFull:
                    refused += 1
                assert (await events(node), await frequency(node, "x", "y")) == (held, learned)
            disk.clear()
        async with bound(disk) as node:
            assert (await events(node), await frequency(node, "x", "y")) == (held, learned)
            await node.service.clear_stm(None)
            held = []
    assert refused > 24


async def test_a_node_that_finds_no_room_is_not_bound(disk: Disk) -> None:
    """Without room even to open the file, new or old, a bind is refused in words; with room all is as before."""
    disk.fill()
    with pytest.raises(StoreFull, match="the disk is full"):
        await new_node(disk.root / "p.sqlite").bind(BIND)
    with pytest.raises(StoreFull, match="the disk is full"):
        await new_node(disk.root / "folder" / "p.sqlite").bind(BIND)
    disk.clear()
    async with bound(disk) as node:
        await node.service.observe(None, seen("a"))
    for pages in range(16):
        disk.fill(leave_bytes=pages * PAGE_BYTES)
        node = new_node(disk.root / "p.sqlite")
        try:
            await node.bind(BIND)
        except StoreFull:
            pass
        else:
            assert await events(node) == ["a"]
        await node.drain()
        disk.clear()
    async with bound(disk) as node:
        assert await events(node) == ["a"]


async def test_no_more_names_are_a_full_disk(disk: Disk) -> None:
    """A disk that has room but no inode left for another file is full, too, and said to be."""
    async with bound(disk) as node:
        await node.service.observe(None, seen("a"))
    disk.remount("nr_inodes=2")
    node = new_node(disk.root / "p.sqlite")
    with pytest.raises(StoreFull):
        await node.bind(BIND)
    disk.remount("nr_inodes=100")
    await node.bind(BIND)
    assert await events(node) == ["a"]
    await node.drain()


async def test_the_log_does_not_keep_what_a_large_commit_took(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The -wal that one large commit has made grow is small again after the next ones: it takes no room for ever."""
    monkeypatch.setattr(sqlite, "WAL_KEPT_BYTES_MAX", 64 * 1024)
    async with bound(disk) as node:
        wal = disk.root / "p.sqlite-wal"
        many = [Observation(strings=[f"{number}" + "z" * 2_000]) for number in range(400)]
        await node.service.observe_sequence(None, SequenceRequest(observations=many))
        largest = wal.stat().st_size
        await node.service.clear_stm(None)
        for number in range(1_000 if wal.stat().st_size > 64 * 1024 else 0):
            await node.service.observe(None, seen(f"{number}"))
            if wal.stat().st_size <= 64 * 1024:
                break
        assert wal.stat().st_size <= 64 * 1024 < largest


async def test_callers_are_told(disk: Disk) -> None:
    """Over HTTP a call that finds no room is 503 STORAGE_UNAVAILABLE with Retry-After and words that name the disk, and
    the same node answers 200 once there is some; nothing of its path is told.
    """
    async with running(disk.root) as node:
        await observe(node.http, "a")
        disk.fill()
        reply = await node.http.post("/observe", json={"strings": ["b" * 60_000]})
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (503, "STORAGE_UNAVAILABLE")
        assert int(reply.headers["Retry-After"]) >= 1
        assert "disk" in error["message"]
        assert "full" in error["message"]
        assert str(disk.root) not in reply.text
        assert (await node.http.get("/health")).status_code == 200
        disk.clear()
        await observe(node.http, "b" * 60_000)
        assert await stm(node.http) == [["a"], ["b" * 60_000]]

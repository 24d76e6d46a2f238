"""The SQLite store on a real disk: what survives a kill, what a commit writes, and what each trouble is called."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from kato_node.domain.learn import display_name, pattern_name
from kato_node.domain.observation import Observation
from kato_node.domain.state import SessionState
from kato_node.node import BindSpec, Node
from kato_node.service import Reply, RetryKey
from kato_node.store import sqlite
from kato_node.store.base import Batch, CommitUnknown, SessionRecord, SessionWrite, StoreUnavailable
from kato_node.store.sqlite import SqliteStore
from tests.integration.node.worker import SESSIONS, calls_made, new_node
from tests.processes import until

AB = display_name(pattern_name((("a",), ("b",))))


@asynccontextmanager
async def bound(path: Path) -> AsyncIterator[Node]:
    """Bind a node to this file; drain it afterwards."""
    node = new_node(path)
    await node.bind(BindSpec(processor_id="p"))
    try:
        yield node
    finally:
        await node.drain()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    """Open a store on this file; close it afterwards."""
    store = SqliteStore(path, "p")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def record(state: SessionState) -> SessionRecord:
    """Return a session in this state."""
    return SessionRecord(session_id="s", incarnation="1", state=state, overrides=(), operations=())


def first_write(after: SessionRecord) -> Batch:
    """Return the transaction that makes this session."""
    return Batch(sessions=[SessionWrite(session_id="s", before=None, after=after)], ltm=())


async def acknowledged_until_killed(path: Path, lines: int) -> dict[str, int]:
    """Let the worker live on the file, kill it after so many lines, and return the last count of each session."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.node.worker", str(path), stdout=asyncio.subprocess.PIPE
    )
    assert worker.stdout is not None
    counts: dict[str, int] = {}
    try:
        for _ in range(lines):
            session_id, count = (await worker.stdout.readline()).split()
            counts[session_id.decode()] = int(count)
    finally:
        worker.kill()
    rest = await worker.stdout.read()  # what it had said before the kill arrived
    for line in rest.splitlines(keepends=True):
        if line.endswith(b"\n"):
            session_id, count = line.split()
            counts[session_id.decode()] = int(count)
    await worker.wait()
    return counts


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """Killed again and again under load: every acknowledged call is there once, at most one more of each session, and
    the LTM counts exactly the learns of the sessions as they are.
    """
    path = tmp_path / "p.sqlite"
    for lines in (40, 97, 150, 233):
        counts = await acknowledged_until_killed(path, lines)
        async with bound(path) as node:
            learned = 0
            for session_id in SESSIONS:
                status = await node.reads.status(session_id)
                time, length = cast("int", status["time"]), cast("int", status["stm_length"])
                assert counts.get(session_id, 0) <= calls_made(time, length) <= counts.get(session_id, 0) + 1
                stm = (await node.reads.stm(session_id))["stm"]
                assert stm == (("a",), ("b",))[:length]
                learned += (time - length) // 2
            pattern = cast("Reply", (await node.reads.pattern(AB))["pattern"])
            assert pattern["frequency"] == learned


def long_state(events: int) -> SessionState:
    """Return a session that has observed that many events, with all that an observation can have."""
    times = tuple(range(1, events + 1))
    return SessionState(
        stm=tuple((f"symbol {time}",) for time in times),
        event_times=times,
        time=events,
        emotives=tuple((time, {"joy": 1.0}) for time in times),
        metadata=tuple((time, {"at": time}) for time in times),
        vectors=((1.0, 2.0),) * events,
    )


async def bytes_per_observe(path: Path, events: int) -> float:
    """Return by how much the WAL grows with each observation of a session that has so many events."""
    async with opened(path) as store:
        await store.bind()
        await store.commit(first_write(record(long_state(events))), epoch=1)
    observations = 50
    async with bound(path) as node:
        wal = path.with_name(path.name + "-wal")
        before = wal.stat().st_size
        for number in range(observations):
            moment = Observation(strings=["x"], emotives={"joy": 1.0}, metadata={"at": 1}, vectors=[[1.0, 2.0]])
            await node.service.observe("s", moment, retry=RetryKey(key=f"{number}", body_hash="0" * 64))
        return (wal.stat().st_size - before) / observations


async def test_what_an_observe_writes_does_not_grow_with_the_stm(tmp_path: Path) -> None:
    """With 5,000 events in the STM an observation writes no more than with 500: a few pages, whatever it holds."""
    short = await bytes_per_observe(tmp_path / "short.sqlite", 500)
    long = await bytes_per_observe(tmp_path / "long.sqlite", 5_000)
    assert 0 < long <= 1.1 * short
    assert long < 8 * 4096


async def test_closing_ends_the_thread(tmp_path: Path) -> None:
    """A closed store leaves no thread behind, and neither does one that could not be opened."""
    async with opened(tmp_path / "p.sqlite"):
        assert "sqlite p" in {thread.name for thread in threading.enumerate()}
    with pytest.raises(StoreUnavailable):
        await SqliteStore(tmp_path, "p").open()
    await until(lambda: "sqlite p" not in {thread.name for thread in threading.enumerate()}, what="the thread's end")


async def refusal(path: Path) -> str:
    """Return what is said when a store cannot be opened on this path."""
    with pytest.raises(StoreUnavailable) as refused:
        await SqliteStore(path, "p").open()
    assert str(path.parent) not in refused.value.message  # which clients see
    return refused.value.message


async def test_what_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    """A path in the way, a file that is no database, a damaged one, a later schema: each is told apart."""
    (tmp_path / "file").touch()
    assert "KATO_HOME" in await refusal(tmp_path / "file" / "p.sqlite")
    assert "KATO_HOME" in await refusal(tmp_path)
    (tmp_path / "noise.sqlite").write_bytes(b"this is not a database" * 500)
    assert "restore it from a backup" in await refusal(tmp_path / "noise.sqlite")
    newer = tmp_path / "newer.sqlite"
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "run a newer one" in await refusal(newer)


async def test_a_damaged_file_is_unavailable_and_says_so(tmp_path: Path) -> None:
    """Reading a page that is not what it should be is an error of the store, not of the caller."""
    path = tmp_path / "p.sqlite"
    async with opened(path) as store:
        await store.bind()
        await store.commit(first_write(record(long_state(2_000))), epoch=1)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096 * 8)
        file.write(b"\xff" * (size - 4096 * 8))
    async with opened(path) as store:
        with pytest.raises(StoreUnavailable, match="damaged"):
            await store.load_session("s")


async def test_a_locked_file_refuses_the_call_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process holds the lock, writes are 503 and change nothing; afterwards they go on."""
    monkeypatch.setattr(sqlite, "LOCK_WAIT_S", 0.01)
    path = tmp_path / "p.sqlite"
    async with bound(path) as node:
        await node.service.observe(None, Observation(strings=["a"]))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="lock"):
                await node.service.observe(None, Observation(strings=["b"]))
            assert (await node.reads.stm(None))["stm"] == (("a",),)
            other.execute("ROLLBACK")
        await node.service.observe(None, Observation(strings=["c"]))
        assert (await node.reads.stm(None))["stm"] == (("a",), ("c",))


class Connection(sqlite3.Connection):
    """A connection that fails as told: (what the statement begins with, the error code, whether it is done first)."""

    script: list[tuple[str, int, bool]]

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        """Run a statement, or fail."""
        return self._as_told(sql, partial(super().execute, sql, *values))  # type: ignore[arg-type]

    def executemany(self, sql: str, rows: object) -> sqlite3.Cursor:
        """Run a statement with each row, or fail."""
        return self._as_told(sql, partial(super().executemany, sql, rows))  # type: ignore[arg-type]

    def _as_told(self, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        if not self.script or not sql.startswith(self.script[0][0]):
            return run()
        _, code, done = self.script.pop(0)
        if done:
            run()
        error = sqlite3.OperationalError("as told")
        error.sqlite_errorcode = code
        raise error


class Driver:
    """The stores' connections: what they fail at, and themselves, usable from any thread."""

    def __init__(self) -> None:
        self.script: list[tuple[str, int, bool]] = []
        self.connections: list[Connection] = []
        self._connect = sqlite3.connect

    def connect(self, path: Path, *, timeout: float, isolation_level: None) -> sqlite3.Connection:
        """Stand in for sqlite3.connect."""
        connection = self._connect(
            path, timeout=timeout, isolation_level=isolation_level, check_same_thread=False, factory=Connection
        )
        connection.script = self.script
        self.connections.append(connection)
        return connection

    def pragma(self, text: str) -> object:
        """Run a pragma on the newest connection; return what it says."""
        return self.connections[-1].execute(f"PRAGMA {text}").fetchone()[0]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """The driver under the stores of this test."""
    between = Driver()
    monkeypatch.setattr(sqlite3, "connect", between.connect)
    return between


async def test_commits_are_synchronous(tmp_path: Path, driver: Driver) -> None:
    """The file is in WAL mode, and every commit is flushed to the disk before it is acknowledged."""
    async with opened(tmp_path / "p.sqlite"):
        assert (driver.pragma("journal_mode"), driver.pragma("synchronous")) == ("wal", 2)


@pytest.mark.parametrize(
    ("statement", "code", "message"),
    [
        ("BEGIN", sqlite3.SQLITE_BUSY, "lock"),
        ("UPDATE processor", sqlite3.SQLITE_IOERR, "the disk failed"),
        ("INSERT OR REPLACE INTO sessions", sqlite3.SQLITE_FULL, "disk is full"),
        ("COMMIT", sqlite3.SQLITE_FULL, "disk is full"),
        ("COMMIT", sqlite3.SQLITE_BUSY, "lock"),
    ],
)
async def test_a_transaction_that_fails_writes_nothing(
    tmp_path: Path, driver: Driver, statement: str, code: int, message: str
) -> None:
    """A failure of any statement, or of a commit that cannot have happened, leaves the store as it was, and usable."""
    async with bound(tmp_path / "p.sqlite") as node:
        await node.service.observe(None, Observation(strings=["a"]))
        driver.script.append((statement, code, False))
        with pytest.raises(StoreUnavailable, match=message):
            await node.service.observe(None, Observation(strings=["b"]))
        assert (await node.reads.stm(None))["stm"] == (("a",),)
        await node.service.observe(None, Observation(strings=["c"]))
    async with bound(tmp_path / "p.sqlite") as node:
        assert (await node.reads.stm(None))["stm"] == (("a",), ("c",))


@pytest.mark.parametrize("done", [True, False])
async def test_a_commit_of_unknown_outcome_is_looked_up(tmp_path: Path, driver: Driver, done: bool) -> None:
    """When the disk fails in the middle of a commit, what the file then holds is true, and a retry applies once."""
    retry = RetryKey(key="1", body_hash="0" * 64)
    async with bound(tmp_path / "p.sqlite") as node:
        await node.service.observe(None, Observation(strings=["a"]))
        driver.script.append(("COMMIT", sqlite3.SQLITE_IOERR, done))
        with pytest.raises(CommitUnknown):
            await node.service.observe(None, Observation(strings=["b"]), retry=retry)
        expected = (("a",), ("b",)) if done else (("a",),)
        assert (await node.reads.stm(None))["stm"] == expected
        await node.service.observe(None, Observation(strings=["b"]), retry=retry)
        assert (await node.reads.stm(None))["stm"] == (("a",), ("b",))


async def test_a_full_disk_is_told_and_leaves_reads_alone(tmp_path: Path, driver: Driver) -> None:
    """When the file cannot grow, calls that need room are refused and change nothing; reads go on, and so do calls
    once there is room.
    """
    path = tmp_path / "p.sqlite"
    async with bound(path) as node:
        await node.service.observe(None, Observation(strings=["a"]))
        driver.pragma("max_page_count = 1")  # no more than there are
        big = Observation(strings=["x" * 60_000])
        with pytest.raises(StoreUnavailable, match="disk is full"):
            await node.service.observe(None, big)
        assert (await node.reads.stm(None)).get("degraded") is None
        assert (await node.reads.stm(None))["stm"] == (("a",),)
        driver.pragma("max_page_count = 100000")
        await node.service.observe(None, big)
        assert (await node.reads.stm(None))["length"] == 2


async def test_a_session_of_many_rows_loads_as_it_was(tmp_path: Path) -> None:
    """A long STM comes back whole, and rolls on from there."""
    path = tmp_path / "p.sqlite"
    state = long_state(3_000)
    async with opened(path) as store:
        await store.bind()
        await store.commit(first_write(record(state)), epoch=1)
        loaded = await store.load_session("s")
        assert loaded == record(state)
        rolled = replace(state, stm=state.stm[-10:], event_times=state.event_times[-10:], stm_bytes=-1)
        assert loaded is not None
        write = SessionWrite(session_id="s", before=loaded, after=record(rolled))
        await store.commit(Batch(sessions=[write], ltm=()), epoch=1)
        assert await store.load_session("s") == record(rolled)

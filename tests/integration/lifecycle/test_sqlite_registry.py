"""What only the embedded registry can suffer: files that are not what they should be."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kato_gateway.domain.errors import RegistryUnavailable
from kato_gateway.domain.sessions import new_session
from kato_gateway.registry.base import OwnerChange, SessionChange, SessionQuery
from kato_gateway.registry.sqlite import SqliteRegistry

RECORD = new_session("s", incarnation="1", at_s=1.0, ttl_s=60.0)


@pytest.mark.parametrize("spoil", ["no folder", "no database"])
async def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, spoil: str) -> None:
    """Opening says so, and leaves nothing open."""
    path = tmp_path / ("missing/gateway.sqlite" if spoil == "no folder" else "gateway.sqlite")
    if spoil == "no database":
        path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    registry = SqliteRegistry(path)
    with pytest.raises(RegistryUnavailable):
        await registry.open()
    with pytest.raises(RegistryUnavailable):
        await registry.session("s")
    await registry.close()


FIRST = """
CREATE TABLE sessions (
    _id TEXT PRIMARY KEY, incarnation TEXT NOT NULL, version INTEGER NOT NULL, status TEXT NOT NULL, user_id TEXT,
    processor_id TEXT NOT NULL, node_id TEXT, expires_at_s REAL, ended_at_s REAL, created_at_s REAL NOT NULL,
    document TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO sessions VALUES ('s', '1', 1, 'creating', NULL, 's', NULL, 61.0, NULL, 1.0, '{"_id":"s","user_id":null,
"processor_id":"s","incarnation":"1","created_at_s":1.0,"last_activity_at_s":1.0,"expires_at_s":61.0,"ttl_s":60.0,
"sliding":true,"node_id":null,"ended_at_s":null,"version":1,"status":"creating","reason":null,"config":"{}",
"effective_config":"{}","metadata":"{}"}');
"""


async def test_a_file_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    """Its sessions are there, without an owner, and what is new can be written; opening it again changes nothing."""
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite")) as old:
        old.executescript(FIRST)
    for _ in range(2):
        registry = SqliteRegistry(tmp_path / "gateway.sqlite")
        await registry.open()
        assert await registry.session("s") == RECORD
        assert await registry.sessions(SessionQuery(owner="ann"), limit=9) == []
        assert await registry.apply([OwnerChange(processor_id="s", owner="ann")])
        assert await registry.settled("deployment", "d") == "d"
        await registry.close()


async def test_two_gateways_bring_up_one_file(tmp_path: Path) -> None:
    """Whichever comes first does it, and the other one finds it done."""
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite")) as old:
        old.executescript(FIRST)
    registries = [SqliteRegistry(tmp_path / "gateway.sqlite") for _ in range(3)]
    await asyncio.gather(*(registry.open() for registry in registries))
    assert [await registry.session("s") for registry in registries] == [RECORD] * 3
    await asyncio.gather(*(registry.close() for registry in registries))


async def test_a_file_that_cannot_be_brought_up_stays_as_it_was(tmp_path: Path) -> None:
    """A failure on the way undoes all of it."""
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite")) as old:
        old.executescript(FIRST)
        old.execute("UPDATE sessions SET document = 'no JSON'")
        old.commit()
    before = (tmp_path / "gateway.sqlite").read_bytes()
    with pytest.raises(RegistryUnavailable):
        await SqliteRegistry(tmp_path / "gateway.sqlite").open()
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite")) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (0,)
        assert "owner" not in {row[1] for row in old.execute("PRAGMA table_info(sessions)")}
    assert len(before) == (tmp_path / "gateway.sqlite").stat().st_size


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    """Opening it is refused, and says what to do."""
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite")) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(RegistryUnavailable, match="newer KATO"):
        await SqliteRegistry(tmp_path / "gateway.sqlite").open()


async def test_a_failed_transaction_fails_everybody_in_it_and_nobody_after(tmp_path: Path) -> None:
    """Calls that shared a failed transaction hear of it, nothing of them is written, and later ones go well."""
    registry = SqliteRegistry(tmp_path / "gateway.sqlite")
    await registry.open()
    change = SessionChange(before=None, after=RECORD)
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite")) as vandal:
        vandal.execute("ALTER TABLE sessions RENAME TO hidden")
        outcomes = await asyncio.gather(*(registry.apply([change]) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [RegistryUnavailable] * 3
        assert not any(str(tmp_path) in str(outcome) for outcome in outcomes)  # clients read it
        vandal.execute("ALTER TABLE hidden RENAME TO sessions")
    assert await registry.session("s") is None
    assert await registry.apply([change])
    assert await registry.session("s") == RECORD
    await registry.close()
    with pytest.raises(RegistryUnavailable):
        await registry.apply([change])


async def test_a_value_that_cannot_be_written_is_its_callers_error_alone(tmp_path: Path) -> None:
    """Whoever hands over such a value hears of it, nothing of the call is written, and all others are served."""
    registry = SqliteRegistry(tmp_path / "gateway.sqlite")
    await registry.open()
    other = replace(RECORD, session_id="t")
    too_large = replace(RECORD, session_id="u", version=2**63)
    wrong, right = await asyncio.gather(
        registry.apply(
            [SessionChange(before=None, after=other), SessionChange(before=None, after=too_large)],
        ),
        registry.apply([SessionChange(before=None, after=RECORD)]),
        return_exceptions=True,
    )
    assert (type(wrong), right) == (OverflowError, True)
    with pytest.raises(UnicodeEncodeError):
        await registry.session("\ud800")
    assert await registry.sessions(SessionQuery(), limit=9) == [RECORD]
    await registry.close()


def failing_at(fails: set[str], error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each connection made from now on raise the error at these statements, for as long as they are in there."""
    connect = sqlite3.connect

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            if sql in fails:
                raise error
            return super().execute(sql, parameters)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, factory=Failing))


def lose(folder: Path) -> int:
    """Delete every file in the folder; return how many there were."""
    files = list(folder.iterdir())
    for file in files:
        file.unlink()
    return len(files)


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), MemoryError()])
@pytest.mark.parametrize("lost", [False, True])
async def test_a_connection_that_cannot_undo_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, lost: bool
) -> None:
    """A transaction whose end and whose undoing fail is nobody's: its caller hears of it, the next is served.

    Should the file be lost meanwhile, an empty one never takes its place.
    """
    fails: set[str] = set()
    failing_at(fails, error, monkeypatch)
    registry = SqliteRegistry(tmp_path / "gateway.sqlite")
    await registry.open()
    fails |= {"COMMIT", "ROLLBACK"}
    change = SessionChange(before=None, after=RECORD)
    with pytest.raises(RegistryUnavailable):
        await registry.apply([change])
    fails.clear()
    if lost:
        lose(tmp_path)
        with pytest.raises(RegistryUnavailable):
            await registry.session("s")
        assert lose(tmp_path) == 0
    else:
        assert await registry.session("s") is None
        assert await registry.apply([change])
    await registry.close()

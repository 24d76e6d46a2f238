"""What only the embedded registry can suffer: files that are not what they should be."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kato_gateway.domain.errors import RegistryUnavailable
from kato_gateway.domain.sessions import new_session
from kato_gateway.registry.base import SessionChange
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


async def test_a_failed_transaction_fails_everybody_in_it_and_nobody_after(tmp_path: Path) -> None:
    """Calls that shared a failed transaction hear of it, nothing of them is written, and later ones go well."""
    registry = SqliteRegistry(tmp_path / "gateway.sqlite")
    await registry.open()
    change = SessionChange(before=None, after=RECORD)
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite")) as vandal:
        vandal.execute("ALTER TABLE sessions RENAME TO hidden")
        outcomes = await asyncio.gather(*(registry.apply([change]) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [RegistryUnavailable] * 3
        vandal.execute("ALTER TABLE hidden RENAME TO sessions")
    assert await registry.session("s") is None
    assert await registry.apply([change])
    assert await registry.session("s") == RECORD
    await registry.close()
    with pytest.raises(RegistryUnavailable):
        await registry.apply([change])

"""`python -m kato_gateway backup DIR`: a copy of everything that an installation keeps, made while it runs.

Each database is copied as of one moment, by SQLite itself; the registry first, so that the processors are never behind
it. Two databases may be of moments a little apart, which harms nothing: the gateway takes what the processors say.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from kato_gateway.settings import Settings, SettingsError, from_environment

REGISTRY = "gateway.sqlite"
PROCESSORS = "processors"
SMALL = ("deployment", "secret", "log_level")
OKAY, FAILED, BAD_SETTINGS = 0, 1, 2


class BackupError(Exception):
    """The copy could not be made whole; the text is one line that says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy the installation that the environment means; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="kato-gateway backup",
        description="Copies everything that the installation keeps under KATO_HOME, while it runs.",
    )
    parser.add_argument("directory", type=Path, help="where to; new, or empty")
    target: Path = parser.parse_args(arguments).directory
    try:
        settings = from_environment(os.environ)
        copied = list(back_up(settings, target))
    except SettingsError as error:
        return _failed(error, BAD_SETTINGS)
    except (BackupError, OSError) as error:
        return _failed(error, FAILED)
    print(f"{len(copied)} files copied to {target}")  # noqa: T201 - a program for people
    return OKAY


def back_up(settings: Settings, target: Path) -> Iterator[Path]:
    """Copy what the installation keeps; yield each copy once it is whole and on the disk.

    Raises: BackupError, OSError. What was copied until then stays.
    """
    home = settings.home
    if settings.mongo_url is not None:
        raise BackupError("MONGO_URL: MongoDB keeps everything; use mongodump (docs/operations.md, Backup)")
    if not (home / REGISTRY).exists() and not (home / PROCESSORS).is_dir():
        raise BackupError(f"{home} keeps nothing yet; is KATO_HOME the one that the gateway has?")
    os.umask(0o077)
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise BackupError(f"{target} is not empty; name a new folder, so that no old file is taken for a new one")
    for name in SMALL:
        if (home / name).exists():
            yield Path(shutil.copyfile(home / name, target / name))
    if settings.secret_file is not None:
        yield Path(shutil.copyfile(settings.secret_file, target / "secret"))
    if (home / REGISTRY).exists():
        yield _copied(home / REGISTRY, target / REGISTRY, without="nodes")
    for path in sorted((home / PROCESSORS).glob("*.sqlite")):
        yield _copied(path, target / PROCESSORS / path.name)
    _flush(target)


def _copied(source: Path, target: Path, *, without: str | None = None) -> Path:
    """Copy a database as of one moment, whoever writes to it, into a file that needs no other beside it.

    Args:
        without: a table that is left empty. What runs now does not run where the copy is put back, perhaps on another
            machine, whose gateway could not tell so: it judges no node of another's.
    """
    target.parent.mkdir(exist_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as used,
            closing(sqlite3.connect(target)) as copy,
        ):
            used.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
            if without is not None:
                copy.execute(f"DELETE FROM {without}")  # noqa: S608 - ours
                copy.commit()
            [(said,), *_] = copy.execute("PRAGMA quick_check").fetchall()
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be copied: {error}") from error
    if said != "ok":
        raise BackupError(f"{source} is damaged: {said}")
    _flush(target)
    return target


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(error: Exception, status: int) -> int:
    print(f"kato-gateway backup: {error}", file=sys.stderr)  # noqa: T201 - a program for people
    return status

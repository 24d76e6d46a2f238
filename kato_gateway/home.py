"""The gateway's folder: held by one gateway at a time, with the deployment's id and secret in it."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SECRET_CHARACTERS_MIN = 16


class HomeError(Exception):
    """The folder cannot be used; the text is one line that says what to do."""


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Make the folder if need be and hold it, until the end of the block or of this process.

    Raises: HomeError if it cannot be made, or another gateway holds it; names that one's process.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(home / "gateway.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"KATO_HOME={str(home)!r} cannot be used: {error.strerror}; set it to a folder that can be written"
        raise HomeError(message) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            message = f"another gateway (pid {holder}) uses {home}; stop it, or set KATO_HOME to another folder"
            raise HomeError(message) from error
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError as error:
            raise HomeError(f"{home / 'gateway.lock'} cannot be written: {error.strerror}") from error
        yield
    finally:
        os.close(lock)


def deployment_id(home: Path) -> str:
    """Return the installation's own id, made once. Raises: HomeError."""
    return _made_once(home / "deployment", secrets.token_hex(4))


def deployment_secret(home: Path, given: Path | None) -> str:
    """Return the deployment's secret, from the file `given` or the home's own, made once.

    Raises: HomeError if the file cannot be read or holds too little.
    """
    path = home / "secret" if given is None else given
    setting = "" if path == home / "secret" else "DEPLOYMENT_SECRET_FILE: "
    try:
        text = _made_once(path, secrets.token_urlsafe(32)) if given is None else _read(path)
    except HomeError as error:
        raise HomeError(f"{setting}{error}") from error
    if len(text) < _SECRET_CHARACTERS_MIN:
        raise HomeError(f"{setting}{path} must hold a secret of at least {_SECRET_CHARACTERS_MIN} characters")
    return text


def open_to_all(path: Path) -> bool:
    """Whether every user of this machine may read the file; of one that has gone meanwhile nobody may."""
    try:
        return bool(path.stat().st_mode & 0o004)
    except OSError:
        return False


def secret_digest(secret: str) -> str:
    """Return what tells one deployment's secret from another's, and nobody what it is."""
    return hmac.digest(secret.encode(), b"gateways", hashlib.sha256).hex()


def _made_once(path: Path, text: str) -> str:
    """Return what the file holds; if there is none, make it with `text`: whole or not at all, for us alone to read."""
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(draft)  # unlike a rename, never replaces what somebody else made meanwhile
        except FileExistsError:
            pass
        except OSError as error:
            raise HomeError(f"{path} cannot be written: {error.strerror}") from error
        finally:
            draft.unlink(missing_ok=True)
    return _read(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII text"
        raise HomeError(f"{path} cannot be read: {reason}") from error

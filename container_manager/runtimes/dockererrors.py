"""What the engine's refusals and its silence mean."""

from __future__ import annotations

import os

from docker.errors import APIError, ImageNotFound

from container_manager.errors import (
    ContainerError,
    ImageMissing,
    NameTaken,
    ResourcesExhausted,
    RuntimeUnavailable,
    StartFailed,
)


class Unanswered(RuntimeUnavailable):
    """A call got no answer: whether the engine has done it, or will, is unknown."""


class NetworkGone(RuntimeUnavailable):
    """The network that the node was to join is not there any more, or there are two of its name: look again."""


# Engine, runc, kernel and libnetwork say it in words only; the status is 500 for all of them, or 400.
_EXHAUSTED = (
    ("no space left on device", "the disk is full"),
    ("disk quota exceeded", "the disk is full"),
    ("out of memory", "out of memory"),
    ("oom-killed", "out of memory: the limit is too small for it to start"),
    ("cannot allocate memory", "out of memory"),
    ("memory limit", "out of memory: the limit is too small for it to start"),
    ("resource temporarily unavailable", "no process slots are left"),
    ("too many open files", "no file descriptors are left"),
    ("address pool", "no addresses are left for it"),
    ("no available ipv4 addresses", "no addresses are left for it"),
    ("all ports are allocated", "no ports are left"),
    ("exchange full", "the network's bridge carries no more nodes"),
)


def refusal(error: APIError, doing: str) -> ContainerError:
    """Return what an error that the engine answered means for who wanted it."""
    text = (error.explanation or str(error)).strip()
    words = f"{doing}: the Docker engine says: {text}"
    lower = text.lower()
    for phrase, meaning in _EXHAUSTED:
        if phrase in lower:
            return ResourcesExhausted(f"{meaning}; {words}")
    match error.status_code:
        case 404 if isinstance(error, ImageNotFound):
            return ImageMissing(f"{words}; build or load it (make image), nothing is pulled")
        case 400 | 404 if "network" in lower and ("not found" in lower or "ambiguous" in lower):
            return NetworkGone(words)
        case 409 if "already in use" in lower:
            return NameTaken(f"{words}; adopt or remove it")
        case 400 | 404 if error.status_code == 400 or "no such container" in lower:  # somebody removed it meanwhile
            return StartFailed(words)
    return RuntimeUnavailable(f"{words} (status {error.status_code})")


def silence(error: Exception, doing: str) -> Unanswered:
    """Return what it means that there was no answer, or none that can be read."""
    return Unanswered(f"{doing}: the Docker engine is out of reach: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """Return the first cause in plain words: the libraries in between wrap it several times."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PermissionError):
            return "permission denied; be in the group that owns its socket (usually docker)"
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return f"{os.strerror(cause.errno or 0)}; start the engine, or see to DOCKER_HOST"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__

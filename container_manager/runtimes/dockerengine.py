"""One Docker engine: its clients, its threads, and what its answers and its silence mean."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TypeVar

from docker import APIClient
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env
from requests import Timeout

from container_manager.errors import ImageMissing, RuntimeUnavailable
from container_manager.runtimes.dockerclient import Client
from container_manager.runtimes.dockererrors import Unanswered, refusal, silence
from container_manager.runtimes.dockerthreads import Threads, TimeUp

T = TypeVar("T")
Work = Callable[[APIClient], T]

_ASK_S = 10.0
_END_S = 60.0
# Parallel creations do not scale on an engine: a few at a time. Ends and questions do not wait behind them.
_STARTING, _ENDING, _ASKING = 4, 4, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Which engine it is, and what its clock says, in seconds since the epoch."""

    id: str
    now_s: float


def identity(info: Mapping[str, object]) -> str:
    """Return what tells an engine from every other, and is the same after its restart.

    Its own ID is not enough: older engines read it from a file that a second engine of the host, or a copy of the
    machine, has too.
    """
    facts = [info[name] for name in ("ID", "Name", "DockerRootDir")]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


class Engine:
    """Calls of one engine, each in a thread, with a deadline. Every one raises RuntimeUnavailable.

    Args:
        url: where it listens; None for what DOCKER_HOST and its like say, else the usual socket.
    """

    def __init__(self, url: str | None = None) -> None:
        self._url = url
        self._starting = Threads("docker-start", _STARTING, self.connect)
        self._ending = Threads("docker-end", _ENDING, self.connect)
        self._asking = Threads("docker-ask", _ASKING, self.connect)

    def connect(self, timeout_s: float) -> APIClient:
        """Return a client of one's own, speaking the engine's version. Raises: DockerException."""
        return Client(self._place(), timeout_s=timeout_s)

    def watch(self, silence_s: float) -> APIClient:
        """Return a client whose streams end when nothing comes for so long. Raises: DockerException."""
        return Client(self._place(), timeout_s=silence_s, is_watching=True)

    async def close(self) -> None:
        """End the threads."""
        for threads in (self._starting, self._ending, self._asking):
            await threads.close()

    async def facts(self) -> Facts:
        """Return which engine this is."""
        info = await self.ask("asking who it is", lambda client: client.info())
        return Facts(id=identity(info), now_s=datetime.fromisoformat(info["SystemTime"]).timestamp())

    async def ask(self, doing: str, work: Work[T]) -> T:
        """Do what is quick and changes nothing, or next to it. Raises: ImageMissing."""
        return await self._call(self._asking, doing, work, timeout_s=_ASK_S)

    async def begin(self, doing: str, work: Work[T], *, timeout_s: float = _END_S) -> T:
        """Do what makes something; a cancellation waits for it, so that it can be undone.

        Raises: ImageMissing, NameTaken, StartFailed, ResourcesExhausted.
        """
        return await self._call(self._starting, doing, work, timeout_s=timeout_s, settle=True)

    async def end(self, doing: str, work: Work[T]) -> T:
        """Do what ends something; a cancellation waits for it."""
        return await self._call(self._ending, doing, work, timeout_s=_END_S, settle=True)

    def _place(self) -> dict[str, object]:
        return {"base_url": self._url} if self._url else {**kwargs_from_env(os.environ)}

    async def _call(self, threads: Threads, doing: str, work: Work[T], *, timeout_s: float, settle: bool = False) -> T:
        try:
            return await threads.call(work, timeout_s=timeout_s, settle=settle)
        except (TimeUp, Timeout):  # the socket's own deadline is the same, and may be met first
            raise Unanswered(f"{doing}: no answer from the Docker engine within {timeout_s:.3g} s") from None
        except APIError as error:
            meaning = refusal(error, doing)
            if threads is self._starting or isinstance(meaning, ImageMissing | RuntimeUnavailable):
                raise meaning from error
            raise RuntimeUnavailable(str(meaning)) from error  # an engine with a full disk may fail at anything
        except (DockerException, OSError, ValueError) as error:
            raise silence(error, doing) from error


class Tolerating:
    """Takes refusals with these statuses for the end of the matter."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = statuses

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, APIError) and error.status_code in self._statuses

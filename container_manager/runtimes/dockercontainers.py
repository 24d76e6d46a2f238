"""The engine's calls that concern containers and their images: low-level ones, one round trip each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from docker import APIClient

from container_manager.runtimes.dockerengine import Engine, Tolerating
from container_manager.runtimes.dockerspec import Found, Json, Summary, found_in

_TAIL_LINES = 20
_BAD, _GONE, _CONFLICT = 400, 404, 409


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a container ended, and the last lines that it logged."""

    exit_code: int
    is_out_of_memory: bool
    tail: str


class Containers:
    """The containers of an engine, by their ids. Every call raises RuntimeUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def check_image(self, image: str) -> None:
        """Raises: ImageMissing."""
        await self._engine.ask(
            f"looking for the image {image}",
            lambda client: client.inspect_image(image),  # type: ignore[no-untyped-call]
        )

    async def find(self, labels: Mapping[str, str]) -> Sequence[Found]:
        """Return every container with these labels, whatever its state."""
        filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
        summaries = await self._engine.ask("listing", lambda client: client.containers(all=True, filters=filters))
        return [found_in(summary) for summary in cast("list[Summary]", summaries)]

    async def ending(self, container_id: str) -> Ending:
        """Return how a container ended."""

        def work(client: APIClient) -> Ending:
            state = client.inspect_container(container_id)["State"]
            log = client.logs(container_id, tail=_TAIL_LINES)
            return Ending(
                exit_code=state["ExitCode"],
                is_out_of_memory=state["OOMKilled"],
                tail=log.decode(errors="replace").strip(),
            )

        return await self._engine.ask("reading its log", work)

    async def create(
        self, config: Mapping[str, Json], name: str, *, timeout_s: float, made: Callable[[str], None]
    ) -> None:
        """Create a container, and tell `made` its id, from the thread: also if the caller is cancelled meanwhile.

        Raises: ImageMissing, NameTaken, StartFailed, ResourcesExhausted.
        """

        def work(client: APIClient) -> None:
            made(client.create_container_from_config(config, name)["Id"])  # type: ignore[no-untyped-call]

        await self._engine.begin(f"creating {name}", work, timeout_s=timeout_s)

    async def start(self, container_id: str, name: str, *, timeout_s: float) -> None:
        """Start a container. Raises: StartFailed, ResourcesExhausted, NetworkGone."""
        await self._engine.begin(f"starting {name}", lambda client: client.start(container_id), timeout_s=timeout_s)

    async def signal(self, container_id: str, name: str) -> None:
        """Send a signal to a container, if it runs."""

        def work(client: APIClient) -> None:
            with Tolerating(_GONE, _CONFLICT):
                client.kill(container_id, name)

        await self._engine.end(f"sending {name}", work)

    async def delete(self, container_id: str) -> None:
        """Kill a container if need be, and delete it with its anonymous volumes. Somebody else may be at it already."""

        def work(client: APIClient) -> None:
            with Tolerating(_GONE, _CONFLICT):
                client.remove_container(container_id, v=True, force=True)

        await self._engine.end("removing it", work)

    async def rename(self, container_id: str, name: str) -> bool:
        """Rename a container; whether it could be."""

        def work(client: APIClient) -> bool:
            with Tolerating(_BAD, _GONE, _CONFLICT):
                client.rename(container_id, name)
                return True
            return False

        return await self._engine.ask("renaming it", work)

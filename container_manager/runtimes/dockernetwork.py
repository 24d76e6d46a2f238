"""The network that a deployment's nodes are on: its own, or one that it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from docker import APIClient

from container_manager.errors import RuntimeUnavailable
from container_manager.runtimes.dockerengine import Engine, Tolerating
from container_manager.runtimes.dockerspec import DEPLOYMENT, own_container

# Nodes reach each other and nothing outside. Not `internal`: the engine silently drops published ports there.
_OPTIONS = {
    "com.docker.network.bridge.enable_ip_masquerade": "false",
    "com.docker.network.bridge.enable_icc": "true",
}
_IN_USE, _GONE, _CONFLICT = 403, 404, 409


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    id: str
    created: str  # RFC 3339
    labels: Mapping[str, str]


class DeploymentNetwork:
    """One network: `kato-<deployment>`, made when it is needed, or an existing one, used as it is.

    Args:
        given: the name of an existing network; it is neither made nor removed.
    """

    def __init__(self, engine: Engine, deployment: str, given: str | None) -> None:
        self._engine = engine
        self._deployment = deployment
        self._given = given
        self.name = given or f"kato-{deployment}"

    async def ready(self) -> str:
        """Return the network's id, made if need be.

        Two who ask at once can bring the engine to make two of one name, and then it starts nothing on either.
        Whoever sees several keeps the oldest; who meant to use another finds it gone and asks again.
        Raises: ResourcesExhausted, RuntimeUnavailable.
        """
        usable = await self._usable()
        if not usable and self._given is None:
            await self._make()
            usable = await self._usable()
        if not usable:
            raise RuntimeUnavailable(self._why_not())
        keeper, *others = sorted(usable, key=lambda network: (network.created, network.id))
        if self._given is None:
            await self._delete(others)
        return keeper.id

    async def remove(self) -> None:
        """Remove what `ready` made, unless running nodes are on it. Raises: RuntimeUnavailable."""
        if self._given is None:
            await self._delete(await self._usable())

    async def is_joined(self, network_id: str) -> bool:
        """Return whether we run in a container on this network ourselves.

        Raises: RuntimeUnavailable for a container on other networks only: it would reach no node.
        """
        container_id = _own_container()
        joined = None if container_id is None else await self._networks_of(container_id)
        if joined is None or "host" in joined:  # in no container of this engine, or in the host's network all the same
            return False
        if network_id in joined.values():
            return True
        raise RuntimeUnavailable(
            f"this container is not on the network {self.name}, so it reaches no node; "
            "connect it, or set NODE_NETWORK to a network that it is on"
        )

    async def _make(self) -> None:
        def work(client: APIClient) -> None:
            with Tolerating(_CONFLICT):
                client.create_network(
                    self.name,
                    driver="bridge",
                    options=dict(_OPTIONS),
                    labels={DEPLOYMENT: self._deployment},
                    check_duplicate=True,
                )

        await self._engine.begin(f"creating the network {self.name}", work)

    async def _delete(self, networks: Sequence[_Network]) -> None:
        for network in networks:

            def work(client: APIClient, network_id: str = network.id) -> None:
                with Tolerating(_IN_USE, _GONE, _CONFLICT):
                    client.remove_network(network_id)

            await self._engine.end("removing the network", work)

    async def _usable(self) -> Sequence[_Network]:
        """Return the networks of exactly this name that are ours to use: there can be several."""
        listed = await self._engine.ask("listing networks", lambda client: client.networks(names=[self.name]))
        networks = (
            _Network(id=each["Id"], created=each["Created"], labels=each["Labels"] or {})
            for each in listed
            if each["Name"] == self.name
        )
        return [each for each in networks if self._given is not None or each.labels.get(DEPLOYMENT) == self._deployment]

    async def _networks_of(self, container_id: str) -> Mapping[str, str] | None:
        """Return names and ids of the networks that a container is on; None if this engine has no such container."""

        def work(client: APIClient) -> dict[str, str] | None:
            with Tolerating(_GONE):
                networks = client.inspect_container(container_id)["NetworkSettings"]["Networks"]
                return {name: endpoint["NetworkID"] for name, endpoint in networks.items()}
            return None

        return await self._engine.ask("asking for our own container", work)

    def _why_not(self) -> str:
        if self._given is not None:
            return f"NODE_NETWORK: the Docker engine has no network {self.name}; create it, or leave the setting out"
        return f"a network {self.name} is there but not this deployment's; remove it, or set NODE_NETWORK"


def _own_container() -> str | None:
    try:
        return own_container(Path("/proc/self/mountinfo").read_text())
    except OSError:  # no Linux, so no container of Linux either
        return None

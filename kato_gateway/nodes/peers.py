"""The other gateways of this registry: each says now and then that it serves, and the rest take its word for a while.

Gateways on one engine share its nodes and its pool. What only one of them may do, the registry decides by its compare
and set; what nobody is left to do, falls to the last of them.
"""

from __future__ import annotations

import logging

from kato_gateway.clock import Unchanged
from kato_gateway.domain.policy import Hashes
from kato_gateway.ground import Ground
from kato_gateway.registry.base import GatewayChange, GatewayRecord
from kato_gateway.tasks import all_of

_log = logging.getLogger(__name__)


class Peers:
    """Who else serves.

    Args:
        gateway_id: this gateway's own, the same after a restart: what it said before a crash is nobody else's word.
    """

    def __init__(self, ground: Ground, gateway_id: str) -> None:
        self._ground = ground
        self._gateway_id = gateway_id
        self._words = Unchanged(ground.clock)
        self._others: tuple[GatewayRecord, ...] = ()

    @property
    def own_id(self) -> str:
        """This gateway's own id, the same after a restart."""
        return self._gateway_id

    @property
    def any_serve(self) -> bool:
        """Whether another gateway serves the same sessions."""
        return bool(self._others)

    @property
    def share_nodes(self) -> bool:
        """Whether another gateway serves by the nodes of this engine, too."""
        return any(other.engine == self._ground.engine for other in self._others)

    @property
    def hashes(self) -> Hashes:
        """Which nodes of this engine are of use to somebody."""
        others = (other.spec_hash for other in self._others if other.engine == self._ground.engine)
        return Hashes(own=self._ground.spec_hash, others=frozenset(others))

    async def beat(self) -> None:
        """Say that this gateway serves, and look who else does. Raises: RegistryUnavailable."""
        await self._ground.registry.apply([GatewayChange(gateway=self._own(), serves=True)])
        await self._look()

    async def leave(self) -> None:
        """Say that it serves no more, and look who is left: of two that leave at once, the later one sees nobody.

        Raises: RegistryUnavailable; then what was seen before stands.
        """
        await self._ground.registry.apply([GatewayChange(gateway=self._own(), serves=False)])
        await self._look()

    async def _look(self) -> None:
        registry, silent_max_s = self._ground.registry, self._ground.policy.gateway_silent_max_s
        found = [gateway for gateway in await registry.gateways() if gateway.gateway_id != self._gateway_id]
        self._words.keep({gateway.gateway_id for gateway in found})
        silent = [gateway for gateway in found if self._words.for_s(gateway.gateway_id, gateway.at_s) >= silent_max_s]
        self._others = tuple(gateway for gateway in found if gateway not in silent)
        for gateway in silent:
            _log.warning("gateway_silent", extra={"gateway_id": gateway.gateway_id, "engine": gateway.engine})
        await all_of(registry.apply([GatewayChange(gateway=gateway, serves=False)]) for gateway in silent)

    def _own(self) -> GatewayRecord:
        ground = self._ground
        return GatewayRecord(
            gateway_id=self._gateway_id, engine=ground.engine, spec_hash=ground.spec_hash, at_s=ground.clock.now_s()
        )

"""The end of the gateway: every node ends gently and every session can be found again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from container_manager.errors import ContainerError
from container_manager.spec import Liveness
from kato_gateway.domain.errors import GatewayError
from kato_gateway.domain.sessions import NodeRecord, NodeState
from kato_gateway.ground import Ground
from kato_gateway.nodes.janitor import Janitor
from kato_gateway.nodes.peers import Peers
from kato_gateway.nodes.recovery import Recovery
from kato_gateway.sessions.upkeep import Upkeep
from kato_gateway.tasks import all_of

_log = logging.getLogger(__name__)


async def end_everything(ground: Ground, *, peers: Peers, janitor: Janitor, recovery: Recovery, upkeep: Upkeep) -> None:
    """End what is under way, write what is in memory, end the nodes; each part within its own time, come what may.

    The nodes are ended by the last gateway that serves by them. What cannot be recorded now, the next start concludes
    from what it finds.
    """
    call_s = ground.policy.call_timeout_s
    removal_s = ground.policy.drain_grace_s + 2 * call_s
    await _attempt("calls", ground.tasks.settled(), call_s)
    ground.tasks.interrupt()
    await _attempt("interrupted calls", ground.tasks.settled(), call_s)
    await _attempt("flush", upkeep.flush(), call_s)
    await _attempt("leave", peers.leave(), call_s)
    if peers.share_nodes:
        _log.info("nodes_left", extra={"reason": "another gateway serves by them"})
        await _attempt("removals", ground.tasks.settled(), removal_s)
        return
    await _attempt("recorded nodes", _end_recorded(ground, janitor), removal_s)
    await _attempt("recorded nodes", ground.tasks.settled(), removal_s)
    await _attempt("running nodes", _end_running(ground, recovery), removal_s)


async def _end_recorded(ground: Ground, janitor: Janitor) -> None:
    records = await ground.registry.nodes()
    await all_of(_end_one(ground, janitor, node) for node in records if node.is_on(ground.engine))


async def _end_one(ground: Ground, janitor: Janitor, node: NodeRecord) -> None:
    if node.state is NodeState.BOUND:  # all at once, which is quicker than asking the runtime for each
        call_s = ground.policy.call_timeout_s
        await _attempt("drain", ground.client.drain(node, timeout_s=call_s), call_s)
    await janitor.end(node)


async def _end_running(ground: Ground, recovery: Recovery) -> None:
    """End what runs of this deployment without a record, or in spite of one."""
    statuses = await recovery.running() or ()
    alive = [status.node_id for status in statuses if status.liveness is Liveness.ALIVE]
    await all_of(_removed(ground, node_id) for node_id in alive)


async def _removed(ground: Ground, node_id: str) -> None:
    await ground.runtime.stop(node_id, grace_s=ground.policy.drain_grace_s)
    await ground.runtime.remove(node_id)


async def _attempt(what: str, work: Awaitable[None], within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await work
    except (GatewayError, ContainerError, TimeoutError) as error:
        _log.warning("stop_incomplete", extra={"part": what, "reason": repr(error)})

"""The Docker engine, where nodes are containers: whether it answers, has the image, and runs what nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from container_manager.errors import ContainerError, ImageMissing
from container_manager.runtimes.dockercontainers import Containers
from container_manager.runtimes.dockerengine import Engine
from container_manager.runtimes.dockerspec import DEPLOYMENT, NODE, ROLE, Found
from container_manager.spec import Liveness
from kato_gateway.doctor.clocks import compared
from kato_gateway.doctor.files import Recorded
from kato_gateway.doctor.findings import Finding, Trouble, ok, warn


def look_at_engine(image: str, recorded: Recorded | None, trouble: Trouble) -> list[Finding]:
    """Say whether the engine can serve the installation.

    Args:
        trouble: what it is if it cannot: to some installations containers are a must, to others a choice.
    """
    return asyncio.run(_looked_at(image, recorded, trouble))


async def _looked_at(image: str, recorded: Recorded | None, trouble: Trouble) -> list[Finding]:
    engine = Engine()
    containers = Containers(engine)
    try:
        facts = await engine.facts()
        findings = [ok("engine", "the Docker engine answers"), compared("the Docker engine", facts.now_s)]
        findings.append(await _image(containers, image, trouble))
        if recorded is not None and recorded.deployment is not None:
            findings += _judged(await containers.find({DEPLOYMENT: recorded.deployment}), recorded)
    except ContainerError as error:
        return [trouble("engine", str(error), "start the engine, or see to DOCKER_HOST and who may use its socket")]
    finally:
        await engine.close()
    return findings


async def _image(containers: Containers, image: str, trouble: Trouble) -> Finding:
    try:
        await containers.check_image(image)
    except ImageMissing:
        return trouble("image", f"the engine does not have {image}", "make image, or set NODE_IMAGE to one that it has")
    return ok("image", f"{image} is there")


def _judged(found: Sequence[Found], recorded: Recorded) -> Iterator[Finding]:
    """Yield a line for each container that is not on record, or has ended, and one for all others."""
    well = 0
    for container in found:
        node_id = container.labels.get(NODE, "")
        remove = f"docker rm --force {container.id[:12]}"
        if container.labels.get(ROLE) == "node" and node_id not in recorded.nodes:
            message = f"container {container.id[:12]} (node {node_id}) is there, and the registry does not know it"
            yield warn("containers", message, f"the gateway looks after it within two minutes; or {remove}")
        elif container.liveness is Liveness.DEAD:
            message = f"container {container.id[:12]} (node {node_id}) has ended"
            yield warn("containers", message, "the gateway removes it at its next start or look; nothing to do")
        else:
            well += 1
    yield ok("containers", f"{well} run that are looked after")

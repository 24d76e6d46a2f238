"""What a listing of the engine's says of a node, and where we are ourselves."""

from __future__ import annotations

import pytest

from container_manager.runtimes.dockerspec import (
    Summary,
    container_config,
    found_in,
    likeliest,
    own_container,
    status_of,
)
from container_manager.spec import Address, Liveness, NodeSpec

ID = "0123456789abcdef" * 4


def summary(state: str = "running", **labels: str) -> Summary:
    """Return one entry of a listing."""
    runs = state in {"running", "paused"}
    return {
        "Id": "c1",
        "State": state,
        "Status": "Exited (137) 2 hours ago" if state == "exited" else "Up 2 hours",
        "Labels": {"kato.node": "n1", **labels},
        "Ports": [{"IP": "127.0.0.1", "PrivatePort": 8000, "PublicPort": 32768}] if runs else [],
        "NetworkSettings": {"Networks": {"kato-d": {"NetworkID": "net1", "IPAddress": "172.18.0.2" if runs else ""}}},
    }


@pytest.mark.parametrize(
    ("state", "liveness"),
    [
        ("running", Liveness.ALIVE),
        ("paused", Liveness.ALIVE),
        ("created", Liveness.DEAD),
        ("exited", Liveness.DEAD),
        ("dead", Liveness.DEAD),
        ("removing", Liveness.DEAD),
        ("restarting", Liveness.UNKNOWN),
        ("of a later engine", Liveness.UNKNOWN),
    ],
)
def test_only_states_without_a_process_are_dead(state: str, liveness: Liveness) -> None:
    """A container that may run, or run again, is not dead; a state that nobody has heard of is in doubt."""
    assert found_in(summary(state)).liveness is liveness


def test_a_node_is_reached_from_where_we_are() -> None:
    """Outside of its network a node is reached at its published port; on it, at its own address and port."""
    found = found_in(summary())
    published = Address(host="127.0.0.1", port=32768)
    assert (status_of(found, inside=None).internal, status_of(found, inside=None).external) == (published, published)
    within = status_of(found, inside="net1")
    assert (within.internal, within.external) == (Address(host="172.18.0.2", port=8000), published)


def test_a_dead_node_is_nowhere() -> None:
    """A container that does not run has no address, from wherever, but the status that it ended with."""
    for inside in (None, "net1"):
        status = status_of(found_in(summary("exited")), inside=inside)
        assert (status.internal, status.external, status.exit_status) == (None, None, 137)


def test_labels_that_somebody_else_wrote_are_read_with_patience() -> None:
    """A container whose labels are incomplete or not numbers still has a status."""
    status = status_of(found_in(summary(**{"kato.created": "yesterday"})), inside=None)
    assert (status.node_id, status.deployment, status.created_at_s) == ("n1", "", 0.0)


def test_of_several_containers_the_living_one_is_the_node() -> None:
    """Where there are several containers of one node, one that runs is told of, then one that may."""
    dead, doubtful, alive = (found_in(summary(state)) for state in ("exited", "restarting", "running"))
    assert likeliest([dead, doubtful, alive]) is alive
    assert likeliest([dead, doubtful]) is doubtful
    assert likeliest([]) is None


def test_no_limits_are_none() -> None:
    """A spec without limits asks the engine for none: 0."""
    spec = NodeSpec(node_id="n1", deployment="d", env={}, created_at_s=1.0, image="i")
    host = container_config(spec, network_id="net1", start="s")["HostConfig"]
    assert isinstance(host, dict)
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (0, 0, 0)


def test_a_container_knows_itself_by_its_mounts() -> None:
    """The id is read from where the engine keeps /etc/hostname; a host's mounts for its containers say nothing."""
    of_a_host = f"30 1 0:9 / /var/lib/docker/containers/{ID}/mounts/shm rw - tmpfs shm rw\n"
    of_a_container = f"31 2 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/vda rw\n"
    assert own_container(of_a_host) is None
    assert own_container("32 2 8:1 /etc/hostname /etc/hostname rw - ext4 /dev/vda rw\nbad line\n") is None
    assert own_container(of_a_host + of_a_container) == ID

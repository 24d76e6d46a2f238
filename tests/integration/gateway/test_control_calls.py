"""The gateway's control calls: against a real node, and against peers that are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from container_manager.spec import Address
from kato_gateway.domain.errors import NodeFailed, NodeRefused, NodeTimeout
from kato_gateway.domain.sessions import NodeRecord, bound, claimed, pooled
from kato_gateway.nodes.client import HttpNodeClient
from kato_node.wire.control import BindRequest, OpenSession
from tests.contract.node.serving import DEPLOYMENT_SECRET, Served, serving_node
from tests.integration.gateway.serving import nowhere, talking

SESSION = OpenSession(session_id="s:1@x+y", incarnation="1", config={"persistence": 7})


def at(address: Address) -> NodeRecord:
    """Return a pool member that listens there."""
    node = NodeRecord(node_id="node-1", spec_hash="h", created_at_s=0.0, changed_at_s=0.0)
    return pooled(node, internal=address, external=None, at_s=0.0)


def as_bound(node: NodeRecord, *, processor_id: str = "p", epoch: int = 1) -> NodeRecord:
    """Return the member as bound."""
    return bound(claimed(node, processor_id=processor_id, at_s=0.0), epoch=epoch, at_s=0.0)


@pytest.fixture
async def client() -> AsyncIterator[HttpNodeClient]:
    """An open client that knows the deployment's secret."""
    client = HttpNodeClient(DEPLOYMENT_SECRET)
    await client.open()
    yield client
    await client.close()
    await client.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """An unbound node."""
    async with serving_node(bound=False) as served:
        yield served


def member(served: Served) -> NodeRecord:
    """Return the record of the served node."""
    host, port = served.address[:2]
    return at(Address(host=host, port=port))


async def test_a_node_is_bound_used_and_drained(client: HttpNodeClient, served: Served) -> None:
    """The whole conversation between gateway and node, in its order."""
    node = member(served)
    assert (await client.identity(node, timeout_s=5.0)).state == "unbound"
    request = BindRequest(processor_id="p", idle_timeout_s=0.0, session=SESSION, own_session=True)
    reply = await client.bind(node, request, timeout_s=5.0)
    assert (reply.identity.state, reply.identity.processor_id, reply.identity.epoch) == ("bound", "p", 1)
    assert reply.session is not None
    assert (reply.session.created, reply.session.config["persistence"]) == (True, 7)
    node = as_bound(node)
    assert (await client.open_session(node, SESSION, timeout_s=5.0)).created is False
    other = OpenSession(session_id="t", incarnation="1")
    assert (await client.open_session(node, other, timeout_s=5.0)).created is True
    assert (await client.session(node, "s:1@x+y", timeout_s=5.0)).config["persistence"] == 7
    await client.close_session(node, "s:1@x+y", incarnation="1", timeout_s=5.0)
    await client.close_session(node, "s:1@x+y", incarnation="1", timeout_s=5.0)
    assert (await client.identity(node, timeout_s=5.0)).sessions == ["t"]
    await client.drain(node, timeout_s=5.0)
    await served.serving


async def test_a_nodes_own_errors_stand_as_they_are(client: HttpNodeClient, served: Served) -> None:
    """Status, code and details of a refusal are the node's."""
    node = member(served)
    bad = replace_config(SESSION, {"no_such_gene": 1})
    with pytest.raises(NodeRefused) as refused:
        await client.bind(node, BindRequest(processor_id="p", idle_timeout_s=0.0, session=bad), timeout_s=5.0)
    assert (refused.value.status, refused.value.code) == (422, "VALIDATION_ERROR")
    assert refused.value.details["errors"]


async def test_a_call_says_whom_it_means(client: HttpNodeClient, served: Served) -> None:
    """A node bound to something else, or with another epoch, refuses with WRONG_NODE, and so does an unbound one."""
    node = member(served)
    for _ in range(2):
        for wrong in (as_bound(node, processor_id="q"), as_bound(node, epoch=9)):
            with pytest.raises(NodeRefused) as refused:
                await client.open_session(wrong, SESSION, timeout_s=5.0)
            assert refused.value.code == "WRONG_NODE"
        if served.node.state == "unbound":
            await client.bind(node, BindRequest(processor_id="p", idle_timeout_s=0.0), timeout_s=5.0)


async def test_without_the_secret_there_is_nothing(served: Served) -> None:
    """A node of another deployment does not show its control routes."""
    stranger = HttpNodeClient("another deployment's secret")
    await stranger.open()
    with pytest.raises(NodeRefused) as refused:
        await stranger.identity(member(served), timeout_s=5.0)
    assert (refused.value.status, refused.value.code) == (404, "NOT_FOUND")
    await stranger.close()


async def test_each_node_has_a_secret_of_its_own(client: HttpNodeClient, served: Served) -> None:
    """What opens one node of the deployment does not open another one."""
    with pytest.raises(NodeRefused) as refused:
        await client.identity(replace(member(served), node_id="node-2"), timeout_s=5.0)
    assert (refused.value.status, refused.value.code) == (404, "NOT_FOUND")


async def test_nobody_there_is_a_failure(client: HttpNodeClient) -> None:
    """A refused connection, and a node without an address, are NODE_FAILED."""
    for node in (at(nowhere()), replace(at(nowhere()), internal=None)):
        with pytest.raises(NodeFailed):
            await client.identity(node, timeout_s=5.0)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwhat",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nwhat",
        b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 17000000\r\n\r\n" + b" " * 17_000_000,
        b"nonsense\r\n\r\n",
    ],
    ids=["nothing", "cut short", "other JSON", "no JSON", "no envelope", "elsewhere", "too much", "no HTTP"],
)
async def test_nonsense_is_a_failure(client: HttpNodeClient, answer: bytes) -> None:
    """Whatever is not a node's answer is NODE_FAILED, never anything else."""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with talking(conversation) as address:
        with pytest.raises(NodeFailed):
            await client.identity(at(address), timeout_s=5.0)


async def test_silence_is_a_time_out(client: HttpNodeClient) -> None:
    """A peer that takes the call and says nothing is NODE_TIMEOUT after the call's own deadline."""
    leave = asyncio.Event()

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await leave.wait()

    async with talking(conversation) as address:
        with pytest.raises(NodeTimeout):
            await client.identity(at(address), timeout_s=0.05)
        leave.set()


def replace_config(session: OpenSession, config: dict[str, object]) -> OpenSession:
    """Return the same message with another configuration."""
    return session.model_copy(update={"config": config})

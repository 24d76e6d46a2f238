"""Control calls over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ValidationError

from kato_gateway.domain.errors import NodeFailed, NodeRefused, NodeTimeout
from kato_gateway.domain.sessions import Json, NodeRecord
from kato_node.wire import headers
from kato_node.wire.control import BindReply, BindRequest, Identity, OpenSession, SessionInfo, SetConfig, Vitals
from kato_node.wire.tokens import node_secret

Reply = TypeVar("Reply", bound=BaseModel)
REPLY_BYTES_MAX = 16 * 2**20


class _NodeError(BaseModel):
    code: str
    message: str
    details: dict[str, object] = {}


class _Envelope(BaseModel):
    error: _NodeError


class HttpNodeClient:
    """A NodeClient over aiohttp. A connection of its own for each call: a kept one may belong to a node that left.

    Args:
        secret: the deployment's, from which follows what each node asks of a control call.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._http: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Get ready to call."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._http = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    async def close(self) -> None:
        """Let go of every connection. Idempotent."""
        if self._http is not None:
            await self._http.close()

    async def identity(self, node: NodeRecord, *, timeout_s: float) -> Identity:
        """See NodeClient."""
        return await self._call(node, "GET", "identity", Identity, timeout_s=timeout_s)

    async def vitals(self, node: NodeRecord, *, timeout_s: float) -> Vitals:
        """See NodeClient."""
        return await self._call(node, "GET", "vitals", Vitals, timeout_s=timeout_s)

    async def bind(self, node: NodeRecord, request: BindRequest, *, timeout_s: float) -> BindReply:
        """See NodeClient."""
        return await self._call(node, "POST", "bind", BindReply, body=request, timeout_s=timeout_s)

    async def open_session(self, node: NodeRecord, request: OpenSession, *, timeout_s: float) -> SessionInfo:
        """See NodeClient."""
        return await self._call(node, "POST", "sessions", SessionInfo, body=request, timeout_s=timeout_s)

    async def session(self, node: NodeRecord, session_id: str, *, timeout_s: float) -> SessionInfo:
        """See NodeClient."""
        return await self._call(node, "GET", f"sessions/{quote(session_id)}", SessionInfo, timeout_s=timeout_s)

    async def configure(
        self, node: NodeRecord, session_id: str, values: Mapping[str, Json], *, timeout_s: float
    ) -> SessionInfo:
        """See NodeClient."""
        body = SetConfig.model_validate({"config": values})
        path = f"sessions/{quote(session_id)}/config"
        return await self._call(node, "POST", path, SessionInfo, body=body, timeout_s=timeout_s)

    async def close_session(self, node: NodeRecord, session_id: str, *, incarnation: str, timeout_s: float) -> None:
        """See NodeClient."""
        path = f"sessions/{quote(session_id)}?incarnation={quote(incarnation)}"
        await self._call(node, "DELETE", path, Identity, timeout_s=timeout_s)

    async def drain(self, node: NodeRecord, *, timeout_s: float) -> None:
        """See NodeClient."""
        await self._call(node, "POST", "drain", Identity, timeout_s=timeout_s)

    async def _call(
        self,
        node: NodeRecord,
        method: str,
        path: str,
        reply: type[Reply],
        *,
        body: BaseModel | None = None,
        timeout_s: float,
    ) -> Reply:
        where = f"node {node.node_id} ({method} /control/{path.partition('?')[0]})"
        if self._http is None or node.internal is None:
            raise NodeFailed(f"{where} has no address to be called at.")
        sent = self._headers(node)
        data = None
        if body is not None:
            sent["Content-Type"] = "application/json"
            data = body.model_dump_json().encode()
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._http.request(
                    method, f"{node.internal.http_url}/control/{path}", headers=sent, data=data, allow_redirects=False
                ) as response,
            ):
                text = await _read(response)
        except TimeoutError as error:
            raise NodeTimeout(f"{where} did not answer in {timeout_s:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NodeFailed(f"{where} was not reached or broke off: {type(error).__name__}.") from error
        try:
            if response.status != 200:
                raise _refusal(response.status, text)
            return reply.model_validate_json(text)
        except ValidationError as error:
            raise NodeFailed(f"{where} answered {response.status} with nonsense.") from error

    def _headers(self, node: NodeRecord) -> dict[str, str]:
        sent = {headers.NODE_SECRET: node_secret(self._secret, node.node_id)}
        if node.processor_id is not None and node.epoch is not None:
            sent[headers.PROCESSOR] = node.processor_id
            sent[headers.EPOCH] = str(node.epoch)
        return sent


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body. Raises: aiohttp.ClientPayloadError if it is too long."""
    text = bytearray()
    async for piece in response.content.iter_any():
        text += piece
        if len(text) > REPLY_BYTES_MAX:
            raise aiohttp.ClientPayloadError("the reply is too long")
    return bytes(text)


def _refusal(status: int, text: bytes) -> NodeRefused:
    error = _Envelope.model_validate_json(text).error
    return NodeRefused(status=status, code=error.code, message=error.message, details=error.details)

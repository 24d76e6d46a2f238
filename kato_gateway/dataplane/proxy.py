"""Forwarding an HTTP call: the client's bytes to the session's node, the node's bytes back, both streamed."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import aiohttp
from yarl import URL

from kato_gateway.dataplane.admit import Forward, Head
from kato_gateway.dataplane.attempts import Limits, Patience, Resolver, Usage, attempt
from kato_gateway.dataplane.body import RequestBody
from kato_gateway.dataplane.heads import reply_headers, request_headers
from kato_gateway.dataplane.routes import Route
from kato_gateway.dataplane.vigil import NodeLost

Client = aiohttp.ClientSession
"""What carries calls to the nodes, from `new_client`."""

# Headers that the client library would add of its own.
_NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class AnswerBroken(Exception):
    """The node broke off, or fell silent, in the middle of a reply of which the client has a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call to forward."""

    head: Head
    forward: Forward
    body: RequestBody
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A node's reply: `body` whole, or `rest` to be streamed (and closed), which raises AnswerBroken."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    rest: AsyncGenerator[bytes, None] | None = None


class _Awaited:
    """A resolver for one call, whose client may leave while a node is looked for."""

    def __init__(self, resolver: Resolver, body: RequestBody) -> None:
        self._resolver = resolver
        self._body = body
        self.lost = resolver.lost
        self.is_lost = resolver.is_lost

    async def resolve(self, session_id: str, *, owner: str | None = None) -> Route:
        """See Resolver. Raises: ClientDisconnect, too."""
        return await self._body.unless_hung_up(self._resolver.resolve(session_id, owner=owner))


class HttpProxy:
    """Forwards calls over a pool of connections that are kept alive."""

    def __init__(self, resolver: Resolver, usage: Usage, client: Client, *, limits: Limits) -> None:
        self._resolver = resolver
        self._usage = usage
        self._client = client
        self._limits = limits

    async def answer(self, call: Call) -> Answer:
        """Return the reply of the session's node, whichever node that takes.

        A mutating call gets a key of the gateway's if it has none, so that to repeat it applies nothing twice.
        Raises: GatewayError, ClientDisconnect.
        """
        await call.body.keep()
        key = call.forward.key
        if key is None and call.forward.mutating:
            key = secrets.token_hex(16)
        patience = Patience(self._limits.answer_s)
        call.body.on_progress = patience.renew
        return await attempt(
            _Awaited(self._resolver, call.body),
            call.forward.session_id,
            lambda route: self._counted(call, route, key),
            owner=call.forward.owner,
            limits=self._limits,
            repeatable=lambda: call.body.repeatable,
            key=key if call.forward.mutating else None,
            patience=patience,
        )

    async def _counted(self, call: Call, route: Route, key: str | None) -> Answer:
        self._usage.begin(route.session_id)
        try:
            return await self._try(call, route, key)
        finally:
            self._usage.finish(route.session_id)

    async def _try(self, call: Call, route: Route, key: str | None) -> Answer:
        try:
            response = await self._send(call, route, key)
        except (aiohttp.ClientError, OSError) as error:
            if call.body.failure is not None:
                raise call.body.failure from error
            raise NodeLost from error
        try:
            return await self._received(response, route.session_id)
        except BaseException:
            response.close()
            raise

    async def _send(self, call: Call, route: Route, key: str | None) -> aiohttp.ClientResponse:
        body, headers = call.body, request_headers(call.head, route, request_id=call.request_id, key=key)
        length = call.head.header(b"content-length")
        if not body.small and length is not None:
            headers.append(("content-length", length))
        return await self._client.request(
            call.head.method,
            URL(route.address.http_url + call.forward.target, encoded=True),
            headers=headers,
            data=(body.kept() or None) if body.small else body.stream(),
            # The node says first whether it is the one meant, while the call can still be repeated.
            expect100=not body.small,
            allow_redirects=False,
        )

    async def _received(self, response: aiohttp.ClientResponse, session_id: str) -> Answer:
        """Take a short reply whole, so that one that breaks off is asked for again; stream a long one."""
        if response.status == 421:
            raise NodeLost
        headers = reply_headers(response.raw_headers)
        length = response.content_length
        if length is None or length > self._limits.kept_bytes_max:
            return Answer(status=response.status, headers=headers, rest=self._streamed(response, session_id))
        try:
            body = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise NodeLost from error
        if response.status == 409 and _code(body) == "PROCESSOR_FENCED":
            raise NodeLost
        return Answer(status=response.status, headers=headers, body=body)

    async def _streamed(self, response: aiohttp.ClientResponse, session_id: str) -> AsyncGenerator[bytes, None]:
        self._usage.begin(session_id)
        try:
            while True:
                async with asyncio.timeout(self._limits.silence_s):
                    chunk = await response.content.readany()
                if not chunk:
                    break
                yield chunk
            response.release()
        except (aiohttp.ClientError, OSError) as error:
            raise AnswerBroken from error
        finally:
            response.close()
            self._usage.finish(session_id)


def _code(body: bytes) -> str | None:
    """Return the code of an error's envelope, None for anything else."""
    try:
        error = json.loads(body)["error"]
        return str(error["code"])
    except (ValueError, KeyError, TypeError):
        return None


def new_client(limits: Limits) -> Client:
    """Return a client that carries bytes and changes none: no cookies, no decompression, connections without number."""
    return Client(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=_NOT_ADDED,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s),
    )

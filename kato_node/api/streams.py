"""Export and import over HTTP: lines of JSON of any number, in and out, never as a whole in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kato_node.api.errors import translate
from kato_node.api.requests import met, session_named
from kato_node.domain.errors import DomainError
from kato_node.domain.limits import Limits
from kato_node.domain.transfer import Record, announced, validated_record
from kato_node.node import Node
from kato_node.service import Reply
from kato_node.transfer import BadRecord, Export, ProcessorTransfer
from kato_node.wire import strict_json
from kato_node.wire.errors import ErrorReply, InvalidRequest, LineTooLong, WireError
from kato_node.wire.operations import LINES
from kato_node.wire.web import error_response, explain, json_response

Endpoint = Callable[[Request], Awaitable[Response]]

BATCH_LINES = 256
BATCH_BYTES = 2**20
CHUNK_BYTES = 2**16
SILENCE_MAX_S = 60.0  # of a caller that does not read what it asked for
_BREATHER = 32  # lines after which other calls have their turn on the event loop


def export_endpoint(node: Node) -> Endpoint:
    """Return what serves /export."""

    async def serve(request: Request) -> Response:
        async with node.operation():
            session_named(request, node)  # it matters only that there is one, if one is named
            return _ExportResponse(node, await node.transfer.export())

    return serve


def import_endpoint(node: Node, *, line_bytes_max: int) -> Endpoint:
    """Return what serves /import."""

    async def serve(request: Request) -> Response:
        async with node.operation():
            service, transfer = node.service, node.transfer
            await met(request, node)
            session_id = transfer.meant(session_named(request, node))
            reader = _Reader(request, line_bytes_max=line_bytes_max)
            importing = _Import(transfer, session_id, reader, limits=service.limits)
            try:
                await importing.run()
            except ClientDisconnect:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is explained, with how far this came
                return error_response(importing.stopped(explain(error, translate)))
            return json_response(importing.reply(service.processor_id))

    return serve


class _ExportResponse(Response):
    """Sends an export at the pace at which its caller reads."""

    def __init__(self, node: Node, export: Export) -> None:
        super().__init__(media_type=LINES)
        del self.headers["content-length"]
        self._node = node
        self._export = export

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. Raises: ClientDisconnect, also if the caller does not read."""
        request = Request(scope, receive)
        async with self._node.operation():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for chunk in _chunks(self._export):
                if await request.is_disconnected():
                    raise ClientDisconnect
                try:
                    async with asyncio.timeout(SILENCE_MAX_S):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except TimeoutError as error:
                    raise ClientDisconnect from error
            await send({"type": "http.response.body", "body": b""})


def _chunks(export: Export) -> Iterator[bytes]:
    chunk = bytearray(strict_json.dumps(export.header) + b"\n")
    for line in export.lines:
        chunk += strict_json.dumps(line) + b"\n"
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


class _Reader:
    """Reads a body line by line.

    Attributes:
        number: of the line that is being read or used, from 1.
    """

    def __init__(self, request: Request, *, line_bytes_max: int) -> None:
        self.number = 1
        self._request = request
        self._line_bytes_max = line_bytes_max

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield each line that is not blank. Raises: LineTooLong, ClientDisconnect, what reading the body raises."""
        parts: list[bytes] = []
        size_bytes = 0
        async for chunk in self._request.stream():
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                self._check(size_bytes + len(end))
                line = b"".join((*parts, end)).strip()
                parts, size_bytes = [], 0
                if line:
                    yield line
                self.number += 1
            parts.append(rest)
            size_bytes += len(rest)
            self._check(size_bytes)
        if line := b"".join(parts).strip():
            yield line

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._line_bytes_max:
            raise LineTooLong(self._line_bytes_max)


class _Import:
    """One import: its lines are merged in batches, in their order; a bad line stops it behind the line before."""

    def __init__(self, transfer: ProcessorTransfer, session_id: str, reader: _Reader, *, limits: Limits) -> None:
        self._transfer = transfer
        self._session_id = session_id
        self._reader = reader
        self._limits = limits
        self._import_id = ""
        self._batch: list[tuple[int, Record]] = []
        self._imported = 0
        self._skipped = 0
        self._stopped_at: int | None = None

    async def run(self) -> None:
        """Import everything. Raises: whatever stops it; what came before is imported."""
        expected: int | None = None
        size_bytes = 0
        try:
            async for line in self._reader.lines():
                if expected is None:
                    expected = announced(strict_json.loads(line))
                    self._import_id = hashlib.sha256(line).hexdigest()
                    continue
                record = validated_record(strict_json.loads(line), limits=self._limits)
                self._batch.append((self._reader.number, record))
                size_bytes += len(line)
                if len(self._batch) >= BATCH_LINES or size_bytes >= BATCH_BYTES:
                    await self._merge_batch()
                    size_bytes = 0
                elif len(self._batch) % _BREATHER == 0:
                    await asyncio.sleep(0)
        except BadRecord:
            raise
        except (WireError, DomainError):
            await self._merge_batch()
            raise
        await self._merge_batch()
        self._require_whole(expected)

    def reply(self, processor_id: str) -> Reply:
        """Return what was done."""
        return {
            "status": "okay",
            "imported": self._imported,
            "skipped": self._skipped,
            "processor_id": processor_id,
            "session_id": self._session_id,
        }

    def stopped(self, told: ErrorReply) -> ErrorReply:
        """Return the error with how far the import came."""
        line = self._reader.number if self._stopped_at is None else self._stopped_at
        form = "Send one JSON object a line (curl: --data-binary). " if told.code == "MALFORMED_JSON" else ""
        done = f"{self._imported} patterns were imported, {self._skipped} had been before"
        details = {**told.details, "line": line, "imported": self._imported, "skipped": self._skipped}
        return replace(
            told, message=f"Line {line}: {told.message} {form}{done}; send everything again.", details=details
        )

    async def _merge_batch(self) -> None:
        """Merge what has been read; up to its bad record, if it has one."""
        batch, self._batch = self._batch, []
        try:
            await self._merge(batch)
        except BadRecord as bad:
            self._stopped_at = batch[bad.position][0]
            await self._merge(batch[: bad.position])
            raise
        except Exception:
            self._stopped_at = batch[0][0]
            raise

    async def _merge(self, batch: list[tuple[int, Record]]) -> None:
        if not batch:
            return
        records = [record for _, record in batch]
        merged = await self._transfer.merge(self._session_id, records, import_id=self._import_id)
        self._imported += merged.imported
        self._skipped += merged.skipped

    def _require_whole(self, expected: int | None) -> None:
        """Raises: InvalidRequest if the header is missing, or announces another number of patterns than came."""
        came = self._imported + self._skipped
        if expected is None:
            raise InvalidRequest([("body", "is empty; the first line of an import is an export's header")])
        if came != expected:
            raise InvalidRequest([("patterns", f"the header announces {expected} patterns, and {came} came")])

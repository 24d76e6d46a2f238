"""JSON objects, one a line, over a non-blocking socket. Standard library only: the fork server uses it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping

LINE_BYTES_MAX = 4 * 1024 * 1024
UNSENT_BYTES_MAX = 1024 * 1024
_CHUNK_BYTES = 65_536


class Malformed(Exception):
    """The peer sent what is no message; nothing that follows it can be trusted."""


class JsonLines:
    """One peer: what it sent so far of a line, and what it has not read yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.ended = False
        self._received = bytearray()
        self._unsent = bytearray()
        connection.setblocking(False)

    def receive(self) -> Iterator[Mapping[str, object]]:
        """Yield all messages that are complete by now; `ended` is set once the peer has closed.

        Raises: Malformed, OSError.
        """
        while not self.ended:
            try:
                chunk = self.connection.recv(_CHUNK_BYTES)
            except BlockingIOError:
                return
            self.ended = not chunk
            self._received += chunk
            *lines, self._received = self._received.split(b"\n")
            if len(self._received) > LINE_BYTES_MAX:
                raise Malformed("the line is too long")
            for line in lines:
                yield _parsed(line)

    def send(self, message: Mapping[str, object] | None = None) -> bool:
        """Send a message, or what is left of earlier ones; whether something is still unsent.

        Raises: OSError, also if the peer has not read for too long.
        """
        if message is not None:
            self._unsent += json.dumps(message).encode() + b"\n"
        if self._unsent:
            try:
                del self._unsent[: self.connection.send(self._unsent)]
            except BlockingIOError:
                if len(self._unsent) > UNSENT_BYTES_MAX:
                    raise ConnectionAbortedError("the peer does not read") from None
        return bool(self._unsent)


def _parsed(line: bytearray) -> Mapping[str, object]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise Malformed("not an object")
    return message

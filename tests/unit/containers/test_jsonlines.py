"""Messages over a socket that may be slow, broken, or in the hands of a stranger."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from container_manager.runtimes.jsonlines import LINE_BYTES_MAX, UNSENT_BYTES_MAX, JsonLines, Malformed


@pytest.fixture
def pair() -> Iterator[tuple[JsonLines, socket.socket]]:
    """A peer, and the far end of its socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield JsonLines(ours), theirs


def send_unread(lines: JsonLines, message: dict[str, str]) -> None:
    """Send far more than a socket and the peer's bound hold together."""
    for _ in range(UNSENT_BYTES_MAX // 1_000):
        lines.send(message)


def test_messages_come_whole(pair: tuple[JsonLines, socket.socket]) -> None:
    """A message is given once its line is complete, however it was cut on its way."""
    lines, theirs = pair
    theirs.send(b'{"a": 1}\n{"b"')
    assert list(lines.receive()) == [{"a": 1}]
    theirs.send(b": 2}")
    assert list(lines.receive()) == []
    theirs.send(b"\n")
    assert list(lines.receive()) == [{"b": 2}]
    assert not lines.ended


def test_the_last_words_of_a_closed_peer_are_heard(pair: tuple[JsonLines, socket.socket]) -> None:
    """What a peer sent before it closed is given, then its end is known."""
    lines, theirs = pair
    theirs.send(b'{"a": 1}\n{"unfinished')
    theirs.close()
    assert list(lines.receive()) == [{"a": 1}]
    assert lines.ended


@pytest.mark.parametrize("line", [b"{", b"1", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_malformed(pair: tuple[JsonLines, socket.socket], line: bytes) -> None:
    """A line that is not a JSON object is an error."""
    lines, theirs = pair
    theirs.send(line + b"\n")
    with pytest.raises(Malformed):
        list(lines.receive())


def test_a_line_has_a_bound(pair: tuple[JsonLines, socket.socket]) -> None:
    """A line that goes on beyond its bound is an error before it ends."""
    lines, theirs = pair
    theirs.setblocking(False)

    def send_without_end() -> None:
        sent_bytes = 0
        while sent_bytes <= 2 * LINE_BYTES_MAX:
            sent_bytes += theirs.send(b" " * 65_536)
            list(lines.receive())

    with pytest.raises(Malformed, match="too long"):
        send_without_end()


def test_a_peer_that_does_not_read_is_given_up(pair: tuple[JsonLines, socket.socket]) -> None:
    """What a peer leaves unread is kept for it up to a bound; one that reads gets all of it in order."""
    lines, theirs = pair
    message = {"text": "x" * 10_000}
    while not lines.send(message):
        pass
    while lines.send():
        assert theirs.recv(1_000_000)
    with pytest.raises(ConnectionAbortedError):
        send_unread(lines, message)

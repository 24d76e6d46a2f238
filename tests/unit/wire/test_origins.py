"""Which Host and Origin a loopback service without keys serves."""

from __future__ import annotations

import pytest

from kato_node.wire.origins import foreign

HERE = [b"localhost", b"LOCALHOST", b"127.0.0.1", b"127.255.0.254", b"[::1]"]
ELSEWHERE = [
    b"",
    b"example.com",
    b"localhost.example.com",
    b"localhost@example.com",
    b"example.com@localhost:1@x",
    b"127.0.0.1.example.com",
    b"127.0.0.1 ",
    b"127.0.0.256",
    b"127.1",
    b"0.0.0.0",
    b"10.0.0.1",
    b"[::]",
    b"[::2]",
    b"::1",
    b"localhost:8000:1",
    b"localhost:x",
    b"\xff",
]


@pytest.mark.parametrize("host", HERE)
@pytest.mark.parametrize("port", [b"", b":80", b":8000", b":65535"])
def test_loopback_is_served_at_any_port(host: bytes, port: bytes) -> None:
    """Loopback's own names are served, as Host and as the host of an origin."""
    assert foreign([(b"host", host + port)]) is None
    for scheme in (b"http://", b"https://"):
        assert foreign([(b"host", b"localhost:1"), (b"origin", scheme + host + port)]) is None


@pytest.mark.parametrize("host", ELSEWHERE)
def test_any_other_host_is_foreign(host: bytes) -> None:
    """Nothing else is, however much it looks like it, not even beside a good one."""
    assert foreign([(b"host", host)])
    assert foreign([(b"host", b"localhost"), (b"host", host)])
    assert foreign([(b"host", b"localhost"), (b"origin", b"http://" + host)])


@pytest.mark.parametrize("origin", [b"null", b"", b"localhost", b"file://", b"chrome-extension://abc", b"*"])
def test_an_origin_that_is_no_page_of_this_machine_is_foreign(origin: bytes) -> None:
    """A page without an origin of its own, or of no web server, may be anybody's."""
    assert foreign([(b"host", b"localhost"), (b"origin", origin)])


def test_a_program_that_names_neither_is_served() -> None:
    """Without Host and Origin it is no browser that asks."""
    assert foreign([(b"accept", b"example.com")]) is None

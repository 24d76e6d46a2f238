"""Who may not reach a service that asks for no key: a web page of elsewhere, by way of its reader's browser.

A browser sends a page's requests to loopback as willingly as anywhere. It names the page's origin in `Origin` (a
WebSocket to any host needs no more leave than that), and in `Host` the name by which it reached us: another than
loopback's own if the name's owner had it point here (DNS rebinding). Programs that are no browsers are not concerned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_HERE = rb"(?:localhost|127(?:\." + _OCTET + rb"){3}|\[::1\])(?::[0-9]{0,5})?"
_LOOPBACK = {
    b"host": re.compile(_HERE, re.IGNORECASE),
    b"origin": re.compile(rb"https?://" + _HERE, re.IGNORECASE),
}


def foreign(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return what is wrong with a request to a loopback service without keys, None if nothing is.

    Args:
        headers: of the request, names in lower case.
    """
    for name, value in headers:
        wanted = _LOOPBACK.get(name)
        if wanted is not None and not wanted.fullmatch(value):
            header = name.decode("ascii").capitalize()
            return f"{header} is not this machine's own; only localhost, 127.0.0.0/8 and [::1] are served without keys."
    return None

"""A gateway for the examples: the one that runs, or one of their own in a temporary folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gateway(url: str | None = None, **settings: str) -> Iterator[str]:
    """Yield the address of a running gateway; without `url` start one on a free port, and end it afterwards."""
    if url is not None:
        yield url.rstrip("/")
        return
    with tempfile.TemporaryDirectory(prefix="kato-") as home:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KATO_")}
        environment = {**inherited, "KATO_HOME": home, "GATEWAY_PORT": "0", "LOG_LEVEL": "ERROR", **settings}
        command = [sys.executable, "-m", "kato_gateway"]
        # A group of its own: Ctrl-C ends the example, which then ends the gateway, once.
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, process_group=0)
        try:
            yield _address(process)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    """Wait for the line with which the gateway says where it listens."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://[\d.]+:\d+", line):
            return found[0]
    raise SystemExit(f"the gateway ended with status {process.wait()} before it listened; its log says why")

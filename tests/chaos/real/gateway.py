"""The gateway's own program, whose nodes are those of tests.chaos.real.node: `python -m tests.chaos.real.gateway`."""

from __future__ import annotations

import sys

from container_manager.runtimes.process import ProcessRuntime
from kato_gateway.__main__ import main

ENTRY = "tests.chaos.real.node:run"

if __name__ == "__main__":
    defaults = ProcessRuntime.__init__.__kwdefaults__
    assert defaults is not None
    defaults["entry"] = ENTRY
    sys.exit(main())

"""The gateway's own program, whose nodes are those of tests.e2e.once_node: `python -m tests.e2e.once_gateway`."""

from __future__ import annotations

import sys
from unittest import mock

from container_manager import manager
from kato_gateway.__main__ import main

ENTRY = "tests.e2e.once_node:run"

if __name__ == "__main__":
    with mock.patch.multiple(manager, DEFAULT_ENTRY=ENTRY, MONGO_ENTRY=ENTRY):
        sys.exit(main())

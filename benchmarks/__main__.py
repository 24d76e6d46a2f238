"""`python -m benchmarks [NAME…]`: run all, or the named; exit status 1 if a target is missed."""

from __future__ import annotations

import sys

from benchmarks import calls, density, nodes  # noqa: F401 - importing enters their benchmarks
from benchmarks.frame import BENCHMARKS, run


def main() -> int:
    """Run what the command line names."""
    names = sys.argv[1:]
    if unknown := [name for name in names if name not in BENCHMARKS]:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    return 0 if run(names) else 1


if __name__ == "__main__":
    sys.exit(main())

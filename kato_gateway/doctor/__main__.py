"""`python -m kato_gateway doctor [--json]`: what is wrong, and what to do. Exit status: 1 if something fails."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from kato_gateway.doctor.examination import examine
from kato_gateway.doctor.findings import as_json, as_text, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the installation that the environment means, and print the report; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="kato-gateway doctor",
        description="Looks at the installation that the environment means, and changes nothing.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    chosen = parser.parse_args(arguments)
    findings = list(examine(os.environ))
    print(as_json(findings) if chosen.json else as_text(findings))
    return 1 if failed(findings) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Where both services show their documentation."""

from __future__ import annotations

OPENAPI = "/openapi.json"
PAGE = "/docs"
SCRIPT = f"{PAGE}/swagger-ui-bundle.js"
STYLE = f"{PAGE}/swagger-ui.css"

PATHS = frozenset({OPENAPI, PAGE, SCRIPT, STYLE})
"""What the page is made of; none of it is anybody's own."""

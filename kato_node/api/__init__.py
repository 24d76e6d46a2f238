"""The HTTP and WebSocket face of a node: thin, no decision lives here."""

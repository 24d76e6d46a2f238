"""One KATO node: a FastAPI service that owns one processor and the short-term memories of its sessions."""

__version__ = "0.1.0"

"""Durable storage of one processor: a protocol, one document codec, and one module a backend."""

"""The durable record of sessions and nodes: a protocol, one codec, and one module a backend."""

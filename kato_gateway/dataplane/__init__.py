"""Forwarding: an in-memory route table and a stream of bytes; touches neither storage nor runtime on a hit."""

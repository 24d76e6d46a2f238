"""Nodes: which serve a processor, which wait in the pool, which have gone."""

"""Sessions: created, opened on a node, listed, slid, ended."""

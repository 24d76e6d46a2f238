"""Starts, finds and removes nodes on a runtime; knows no session, no route and no pattern."""

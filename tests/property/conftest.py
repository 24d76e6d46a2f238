"""Property tests are the same on every run: derived from the tests themselves, not from chance or an earlier run."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=200)
settings.load_profile("repeatable")

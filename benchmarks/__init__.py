"""Measures of speed, each against its target; the test suite asserts no times."""

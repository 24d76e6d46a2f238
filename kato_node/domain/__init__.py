"""The processor of processor.md: pure functions over frozen values."""

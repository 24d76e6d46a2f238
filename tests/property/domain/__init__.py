"""The invariants of processor.md, section 9."""

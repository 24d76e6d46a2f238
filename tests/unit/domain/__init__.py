"""The tables and numbers of processor.md, one by one."""

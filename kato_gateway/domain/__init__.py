"""Sessions and policies: pure functions of records and a clock value."""

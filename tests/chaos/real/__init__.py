"""Real gateway and node processes on real storage."""

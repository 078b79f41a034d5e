"""Scaling laws: a formula each, and all that follows from it. Knows nothing of data."""

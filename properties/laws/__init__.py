"""Exact laws: what every editor keeps, whatever it learns."""

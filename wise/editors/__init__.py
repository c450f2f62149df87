"""The editors: one base, one file a family."""

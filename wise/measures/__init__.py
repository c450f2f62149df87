"""Rows and what is made of them: estimates, verdicts, tests; without torch."""

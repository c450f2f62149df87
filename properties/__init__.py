"""The rules an editor must keep, as importable checks, and the tests that run them."""

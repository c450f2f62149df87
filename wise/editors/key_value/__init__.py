"""Editors that write facts as keys and values of W_v: ROME, MEMIT, AlphaEdit."""

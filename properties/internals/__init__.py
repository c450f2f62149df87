"""Tests of the parts: one file for each file of the library, the fixtures and the reports."""

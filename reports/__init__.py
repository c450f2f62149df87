"""Rows to tables, tables to figures, figures to one page, without a model."""

"""Measurements: each prints a table and, last, one JSON line. Results are kept in ``results/``."""

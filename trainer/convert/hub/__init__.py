"""Pushes an export to a model hub: ``python -m trainer push``."""

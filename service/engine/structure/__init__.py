"""Answers that are held to a JSON schema or a regular expression."""

"""Faster forms of what is written plainly elsewhere, each tested to equal the plain form.

Nothing here decides what is computed, and a reader may skip all of it.
"""

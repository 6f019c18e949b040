"""Serves the newest good checkpoint of a volume over HTTP while newer ones arrive.

Imports ``lm`` and never ``trainer``; inside, ``api → engine → lm``.
"""

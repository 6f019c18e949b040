"""Corpora: text that every machine has or is given, split into training and validation.

One module a corpus; ``open_corpus`` finds the one that a recipe names. A corpus is documents of
text; tokens come later (``trainer.data.token_files``).
"""

from trainer.data.corpora.registry import CORPORA, open_corpus
from trainer.data.corpora.split import Split

__all__ = ["CORPORA", "Split", "open_corpus"]

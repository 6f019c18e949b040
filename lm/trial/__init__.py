"""Tokenizers and chat templates of others are tried in a process of their own before they are used.

Both are programs: a normalizer can grow a text without end, a template can loop. ``trying`` starts
the process with bounds on memory and time and keeps what it said; ``program`` is what runs there;
``rules`` says what a tokenizer may do.
"""

from lm.trial.trying import Refused, load_tried, read_tried, try_out

__all__ = ["Refused", "load_tried", "read_tried", "try_out"]

"""Tokenizers and chat templates of others are tried in a process of their own before they are used.

Both are programs: a normalizer can grow a text without end, a template can loop. ``trying`` asks
and keeps what was said, by the bytes; ``helper`` is the process, ``program`` what runs there, with
bounds on memory and time; ``rules`` says what a tokenizer may do.
"""

from lm.trial.trying import Refused, load_tried, read_tried, try_out

__all__ = ["Refused", "load_tried", "read_tried", "try_out"]

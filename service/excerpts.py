"""How much of what a client sent is ever repeated, in an answer or in the log."""

MAX_EXCERPT = 80
"""Characters of one text: 200 hold the two that an answer may have, and a field's name again."""
MAX_MESSAGE = 1000
"""Characters of a whole message, whose other parts are ours or the volume's."""


def excerpt(text: object, most: int = MAX_EXCERPT) -> str:
    """The text, or its beginning if it is longer than so many characters."""
    whole = str(text)
    return whole if len(whole) <= most else whole[: most - 1] + "…"

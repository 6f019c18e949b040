"""Ends a structured answer whole where its budget allows.

``spellings`` knows the bytes of tokens, ``matches`` what patterns match, ``search`` finds tokens
after which an answer is whole, and ``promise`` lets through what such an end can still follow
within the budget.
"""

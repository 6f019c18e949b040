"""Guesses the next tokens of a stream from its own text, so that one step can verify several.

``lookup`` finds where the text has been like this before; ``drafter`` decides for one stream how
many guesses are worth a row of the step; ``planner`` puts them into a plan. Nothing is lost: the
sampler draws each token from the logits, the seed and the index alone, so a guess is accepted only
if it is the very token that would have been drawn without it (``engine`` compares them).
"""

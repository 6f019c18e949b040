"""Steps of several tokens a sequence, prompts and guesses, laid out in one row of tokens."""

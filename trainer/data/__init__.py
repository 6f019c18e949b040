"""From corpora to batches: documents, tokens, windows, and which window a batch has."""

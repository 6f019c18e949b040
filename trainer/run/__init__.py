"""One run: where it begins, its loop, its state, its checkpoints, its end."""

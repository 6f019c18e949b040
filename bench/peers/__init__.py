"""Other engines on the same weights and the same machine, each in an environment of its own."""

"""Settings from the command line, the environment and files, and keys."""

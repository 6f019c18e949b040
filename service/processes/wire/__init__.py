"""What crosses between an engine's process and HTTP processes."""

"""A step in PyTorch, on any device: the definition that faster paths are tested against."""

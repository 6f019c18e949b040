"""Models from elsewhere into a volume, and steps of a volume into other formats."""

"""This service's own protocol: ``POST /generate``."""

"""Connections before there is a request: what one may cost, and how many there may be."""

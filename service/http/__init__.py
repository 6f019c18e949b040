"""The HTTP side: an app, its server, its routes, and how errors are written."""

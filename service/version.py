"""The version of what runs here."""

import importlib.metadata

NAME = "nestling"
UNKNOWN = "unknown"


def version() -> str:
    """The installed version; ``unknown`` in a checkout that was not installed."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN

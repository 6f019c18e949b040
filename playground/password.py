"""Who may use the page: anyone who reaches it, or who knows its password.

The page asks the service with a key of its own, so whoever uses it spends that key.
"""

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Callable
from pathlib import Path

VARIABLE = "NESTLING_PLAYGROUND_PASSWORD"
USER = "nestling"
"""The name that the form asks for beside a password that is given without one."""
LEAST_LENGTH = 8

Check = Callable[[str, str], bool]


def read_password(path: Path | None) -> tuple[str, str] | None:
    """User and password of a file with ``PASSWORD`` or ``USER:PASSWORD``, else the environment's.

    ``None`` where neither is given; raises ``ValueError`` for a short one or an unreadable file.
    """
    if path is None:
        text, source = os.environ.get(VARIABLE), VARIABLE
        if text is None:
            return None
    else:
        source = str(path)
        try:
            text = path.read_text("utf-8").strip()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from error
    user, colon, password = text.partition(":")
    user, password = (user, password) if colon else (USER, text)
    if len(password) < LEAST_LENGTH:
        raise ValueError(f"{source}: a password has at least {LEAST_LENGTH} characters")
    return user, password


def check_of(wanted: tuple[str, str]) -> Check:
    """Whether user and password are the ones wanted; takes as long for any that are not."""
    right = _digest(*wanted)

    def check(user: str, password: str) -> bool:
        return hmac.compare_digest(_digest(user, password), right)

    return check


def warning(host: str, *, has_key: bool, has_password: bool) -> str | None:
    """What to say before the page is bound to a host; ``None`` if strangers cannot use it."""
    if has_password or is_loopback(host):
        return None
    spent = "spends the service's key" if has_key else "uses the service"
    return (
        f"playground: WARNING: on {host} anyone who reaches the page {spent}; set a password "
        f"(--password-file FILE or {VARIABLE}), or --host 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host; a name that is not known is taken for public."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(*parts: str) -> bytes:
    """Of all of them, each of the same length."""
    return b"".join(
        hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest() for part in parts
    )

"""The sockets that a service listens on, bound before anything is loaded.

A port that is in use then ends the start at once, and who connects while a model loads waits in
the kernel's queue instead of being refused.
"""

import contextlib
import errno
import socket

BACKLOG = 2048


class CannotListen(Exception):
    """The address cannot be had; the message says which and why."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets of every address that a host stands for; raises ``CannotListen``."""
    with contextlib.ExitStack() as opened:
        sockets: list[socket.socket] = []
        try:
            for family, address in _addresses(host, port):
                with contextlib.suppress(_NoSuchFamily):
                    chosen = sockets[0].getsockname()[1] if sockets and not port else port
                    sockets.append(opened.enter_context(_bound(family, address, chosen)))
        except OSError as error:
            raise CannotListen(why(host, port, error)) from error
        if not sockets:
            raise CannotListen(f"cannot listen on {host}:{port}: no such address here")
        opened.pop_all()
        return sockets


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets of one port, among which the kernel spreads connections by a hash.

    Raises ``CannotListen`` if the port is in use, by another service of ours, too.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as alone:
            port = alone.getsockname()[1]
        return [
            socket.create_server((host, port), family=family, reuse_port=True, backlog=BACKLOG)
            for _ in range(count)
        ]
    except OSError as error:
        raise CannotListen(why(host, port, error)) from error


def why(host: str, port: int, error: OSError) -> str:
    """One line for people: what cannot be had, and what helps."""
    shown = f"[{host}]" if ":" in host else host
    reason = error.strerror or str(error)
    if error.errno == errno.EADDRINUSE:
        reason = "the port is in use; stop who has it, or choose another --port (0: a free one)"
    elif error.errno == errno.EACCES:
        reason = "ports below 1024 need rights; choose another --port"
    return f"cannot listen on {shown}:{port}: {reason}"


def url(sock: socket.socket) -> str:
    """Where clients find a socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _NoSuchFamily(Exception):
    """The system has no IPv6, although a name stands for an address of it, too."""


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and family == socket.AF_INET6:
            raise _NoSuchFamily from error
        raise

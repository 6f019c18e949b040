"""What uvicorn's protocol writes to: the connection's transport, but for reading and closing."""

import asyncio
from typing import Any, Protocol

_CONTINUE = b"HTTP/1.1 100"


class Owner(Protocol):
    """The connection, as its outlet sees it."""

    has_begun_answer: bool

    @property
    def is_leaving(self) -> bool:
        """Whether it is being closed."""
        ...

    def close(self) -> None:
        """Close once what was written has been taken."""
        ...

    def let_read(self, *, is_wanted: bool) -> None:
        """Whether more of a request's body is wanted now."""
        ...


class Outlet(asyncio.Transport):
    """The methods that a protocol of HTTP needs."""

    def __init__(self, owner: Owner, transport: asyncio.Transport) -> None:
        super().__init__()
        self._owner = owner
        self._transport = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Addresses and the like."""
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        if self._owner.is_leaving:
            return
        if not self._owner.has_begun_answer:
            self._owner.has_begun_answer = bytes(data[: len(_CONTINUE)]) != _CONTINUE
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing more is sent."""
        return self._owner.is_leaving

    def close(self) -> None:
        """Close once what was written has been taken."""
        self._owner.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Enough of a body has come for now."""
        self._owner.let_read(is_wanted=False)

    def resume_reading(self) -> None:
        """More of it is wanted."""
        self._owner.let_read(is_wanted=True)

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return self._transport.get_write_buffer_size()

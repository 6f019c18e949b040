"""Where each request on a connection ends, and how much of it is not its body.

The bytes of one request are given out in pieces that never reach into the next, so that whoever
gets them has one request at a time. What is no body (request line, fields, chunk sizes and their
extensions, trailers) is counted before anything is made of it. The parser is httptools' through
its public interface; the one that makes the request is uvicorn's, behind this one.
"""

import re

import httptools

from service.errors import HeadTooLarge, InvalidRequest, MalformedHttp, UrlTooLong

MAX_HEAD_BYTES = 32 * 1024
"""Request line and fields together, as nginx has it by default; chunks' framing has as much."""
MAX_FIELDS = 256
"""Header fields and trailers; browsers send about twenty."""

_BLANK_LINE = re.compile(rb"\n\r?\n")
"""Heads and chunked bodies end with one, whatever else is before it."""


class Framing:
    """Follows the requests of one connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = bytearray()
        self._content_left = 0
        """Bytes of a body of known length that have not come yet."""
        self._num_other_bytes = 0
        """Of the head until it is whole, then of what else is not the body."""
        self._num_fields = 0
        self.has_begun = False
        """Whether a request ever came."""
        self.has_head = False
        self.is_whole = False
        self.num_body_bytes = 0

    @property
    def path(self) -> bytes:
        """Of the request whose head is whole; raises ``MalformedHttp`` if it has none."""
        try:
            path: bytes | None = httptools.parse_url(bytes(self._url)).path
        except httptools.HttpParserInvalidURLError:
            path = None
        if path is None or not path.isascii():
            raise MalformedHttp("the request's target is no path")
        return path

    def piece_size(self, received: bytes, start: int) -> int:
        """How many of the bytes from ``start`` on can be fed at once."""
        left = len(received) - start
        if self._content_left:
            return min(left, self._content_left)
        for end in (b"\n", b"\r\n"):  # of a blank line whose beginning came before
            if received.startswith(end, start):
                return len(end)
        found = _BLANK_LINE.search(received, start)
        return left if found is None else found.end() - start

    def feed(self, piece: bytes) -> None:
        """Take a piece in.

        Raises ``MalformedHttp``, ``UrlTooLong`` or ``HeadTooLarge``.
        """
        if self.is_whole:
            self._begin_next()
        room = MAX_HEAD_BYTES - self._num_other_bytes
        if not self.has_head and len(piece) > room:
            self._parse(piece[:room])  # to know what is too long
            raise self._too_large()
        had_head, num_body_bytes = self.has_head, self.num_body_bytes
        self._parse(piece)
        if self.has_head and not had_head:
            self._num_other_bytes = 0
        else:
            self._num_other_bytes += len(piece) - (self.num_body_bytes - num_body_bytes)
        if self._num_other_bytes > MAX_HEAD_BYTES + self.num_body_bytes:
            raise self._too_large()
        if self._num_fields > MAX_FIELDS:
            raise HeadTooLarge(f"the request has more than {MAX_FIELDS} fields")

    def _parse(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self.is_whole = True  # to another protocol, which is not spoken here: it is ignored
        except httptools.HttpParserError as error:
            raise MalformedHttp("Invalid HTTP request received.") from error

    def _too_large(self) -> InvalidRequest:
        if not self.has_head and len(self._url) > MAX_HEAD_BYTES // 2:
            return UrlTooLong(f"the request's target exceeds {MAX_HEAD_BYTES // 2} bytes")
        return HeadTooLarge(f"what is not the request's body exceeds {MAX_HEAD_BYTES} bytes")

    def _begin_next(self) -> None:
        self._url.clear()
        self._content_left = self._num_other_bytes = self._num_fields = self.num_body_bytes = 0
        self.has_head = self.is_whole = False

    # httptools calls these
    def on_message_begin(self) -> None:
        """A request's first byte."""
        self.has_begun = True

    def on_url(self, part: bytes) -> None:
        """Some of the target."""
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole field of the head or of the trailers."""
        self._num_fields += 1
        if name.lower() == b"content-length" and not self.has_head:
            self._content_left = int(value)  # the parser refuses what is no number

    def on_headers_complete(self) -> None:
        """The head's last byte."""
        self.has_head = True

    def on_body(self, part: bytes) -> None:
        """Some of the body."""
        self.num_body_bytes += len(part)
        self._content_left = max(0, self._content_left - len(part))

    def on_message_complete(self) -> None:
        """The request's last byte."""
        self.is_whole = True
        self._content_left = 0

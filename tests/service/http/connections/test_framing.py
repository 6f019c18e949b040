"""Framing against a slow reference: the same bytes, whole, through the parser alone."""

import contextlib
import random

import httptools
import pytest

from service.errors import HeadTooLarge, MalformedHttp, ServiceError, UrlTooLong
from service.http.connections.framing import MAX_FIELDS, MAX_HEAD_BYTES, Framing

REQUESTS = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /healthz?a=b HTTP/1.1\r\nhost: x\r\na: b\r\n\r\n",
    b"POST /a HTTP/1.1\r\ncontent-length: 9\r\n\r\n\r\n\r\n\n\n\r\n\n",
    b"POST /b HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
    b"PUT /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\n\n\r\n\r\n1;x=y\r\n\n\r\n0\r\n\r\n",
    b"POST /d HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nt: u\r\nv: w\r\n\r\n",
    b"\r\n\r\nHEAD /e HTTP/1.1\r\nhost: y\r\n\r\n",
    b"GET /f HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
)


class Reference:
    """What the parser says of bytes that come all at once."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self._url = self._body = b""

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        self.requests.append((httptools.parse_url(self._url).path, self._body))


def framed(content: bytes, chance: random.Random) -> tuple[list[bytes], list[tuple[bytes, int]]]:
    """The bytes of each request, and its path and the size of its body, however they come."""
    framing, received, start = Framing(), b"", 0
    parts: list[bytes] = [b""]
    told: list[tuple[bytes, int]] = []
    at = 0
    while at < len(content):
        size = chance.choice((1, 2, 3, 7, 40, 1000))
        received, at = received[start:] + content[at : at + size], at + size
        start = 0
        while start < len(received):
            piece = received[start : start + framing.piece_size(received, start)]
            start += len(piece)
            framing.feed(piece)
            parts[-1] += piece
            if framing.is_whole:
                told.append((framing.path, framing.num_body_bytes))
                parts.append(b"")
    return parts, told


@pytest.mark.parametrize("seed", range(60))
def test_each_request_ends_where_the_parser_says(seed: int) -> None:
    chance = random.Random(seed)
    sent = [chance.choice(REQUESTS) for _ in range(chance.randint(1, 8))]
    parts, told = framed(b"".join(sent), chance)
    assert parts == [*sent, b""]
    for request, (path, num_body_bytes) in zip(sent, told, strict=True):
        reference = Reference()
        parser = httptools.HttpRequestParser(reference)
        with contextlib.suppress(httptools.HttpParserUpgrade):
            parser.feed_data(request)
        assert [(path, num_body_bytes)] == [(p, len(body)) for p, body in reference.requests]


def error_of(content: bytes, size: int) -> type[ServiceError] | None:
    framing = Framing()
    try:
        for at in range(0, len(content), size):
            part, start = content[at : at + size], 0
            while start < len(part):
                piece = part[start : start + framing.piece_size(part, start)]
                start += len(piece)
                framing.feed(piece)
    except ServiceError as error:
        return type(error)
    return None


GET = b"GET / HTTP/1.1\r\n"
CHUNKED = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("size", [1000, 16384, 1 << 20])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (GET + b"a: " + b"v" * (MAX_HEAD_BYTES - len(GET) - 7) + b"\r\n\r\n", None),
        (GET + b"a: " + b"v" * (MAX_HEAD_BYTES - len(GET) - 6) + b"\r\n\r\n", HeadTooLarge),
        (GET + b"a:b\r\n" * MAX_FIELDS + b"\r\n", None),
        (GET + b"a:b\r\n" * (MAX_FIELDS + 1) + b"\r\n", HeadTooLarge),
        (b"GET /" + b"u" * MAX_HEAD_BYTES, UrlTooLong),
        (CHUNKED + b"1\r\na\r\n" * 5000, None),
        (CHUNKED + b"1\r\na\r\n" * 9000, HeadTooLarge),
        (CHUNKED + b"4000\r\n" + b"a" * 0x4000 + b"\r\n1;" + b"x" * 40_000, None),
        (CHUNKED + b"4000\r\n" + b"a" * 0x4000 + b"\r\n1;" + b"x" * 60_000, HeadTooLarge),
        (CHUNKED + b"0\r\n" + b"a: b\r\n" * 6000, HeadTooLarge),
        (b"HELLO\r\n\r\n", MalformedHttp),
    ],
)
def test_what_is_no_body_has_a_limit(
    content: bytes, size: int, expected: type[ServiceError] | None
) -> None:
    assert error_of(content, size) is expected

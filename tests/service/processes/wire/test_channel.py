import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

import pytest

from service.processes.wire import channel
from service.processes.wire.channel import Channel
from service.processes.wire.frames import Kind, frame

SENT = [(Kind.TURN, bytes([number % 251]) * 5000) for number in range(400)]
"""More than a socket holds."""


class End:
    """One end of a channel, and what it heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.heard: list[tuple[Kind, bytes]] = []
        self.num_ends = 0
        self.channel = Channel(sock, lambda *one: self.heard.append(one), self._on_end)

    def _on_end(self) -> None:
        self.num_ends += 1


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def with_ends(talk: Callable[[End, socket.socket], Awaitable[None]]) -> None:
    async def run() -> None:
        one, other = socket.socketpair()
        with one, other:
            await talk(End(one), other)

    asyncio.run(run())


def test_what_a_socket_does_not_hold_is_sent_later_and_in_order() -> None:
    async def talk(sender: End, sock: socket.socket) -> None:
        for kind, payload in SENT:
            sender.channel.send(frame(kind, payload))
        receiver = End(sock)
        await until(lambda: len(receiver.heard) == len(SENT))
        assert receiver.heard == SENT
        sender.channel.close()
        await until(lambda: receiver.num_ends)
        assert (sender.num_ends, receiver.num_ends) == (1, 1)
        assert not receiver.channel.is_open
        receiver.channel.send(frame(Kind.TURN, b""))  # nobody is there: nothing happens

    with_ends(talk)


def test_threads_may_send_at_once() -> None:
    async def talk(sender: End, sock: socket.socket) -> None:
        receiver = End(sock)

        def send(mark: int) -> None:
            for number in range(100):
                sender.channel.send(frame(Kind.TURN, bytes([mark, number]) * 3000))

        threads = [threading.Thread(target=send, args=(mark,)) for mark in range(4)]
        for thread in threads:
            thread.start()
        await until(lambda: len(receiver.heard) == 400)
        for thread in threads:
            thread.join()
        for mark in range(4):
            payloads = [payload for _, payload in receiver.heard if payload[0] == mark]
            assert payloads == [bytes([mark, number]) * 3000 for number in range(100)]

    with_ends(talk)


def test_who_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_BACKLOG_BYTES", 1000)

    async def talk(sender: End, sock: socket.socket) -> None:
        for kind, payload in SENT:
            sender.channel.send(frame(kind, payload))
        heard = sock.recv(1 << 20)
        sender.channel.send(frame(Kind.TURN, b"late"))  # there is room for it again
        await until(lambda: sender.num_ends)
        assert not sender.channel.is_open
        while more := sock.recv(1 << 20):
            heard += more
        whole = b"".join(frame(kind, payload) for kind, payload in SENT)
        assert whole.startswith(heard), "nothing follows what was cut off"

    with_ends(talk)


def test_what_makes_no_sense_ends_the_talk() -> None:
    async def talk(receiver: End, sock: socket.socket) -> None:
        sock.send(b"\x00\x00\x00\x00\xff")
        await until(lambda: receiver.num_ends)
        assert receiver.heard == []

    with_ends(talk)

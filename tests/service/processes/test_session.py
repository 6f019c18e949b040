"""What comes while a grammar is being read is not lost."""

import asyncio
import dataclasses
import socket
from typing import Any

import pytest
from serving import generation_request, toy_served

from service.engine.request import GenerationRequest
from service.engine.served_model import ServedModel
from service.errors import InvalidRequest
from service.processes.multiplexer import Opened
from service.processes.session import Session
from service.processes.wire import frames, messages
from service.processes.wire.frames import NUMBER, Kind, Splitter, frame, message


class Worker:
    """Has a model, and notes what is aborted."""

    def __init__(self, model: ServedModel) -> None:
        self.current = model
        self.aborted: list[str] = []

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)


class Runtime:
    """Reads a grammar until it is told to end."""

    def __init__(self) -> None:
        self.model = toy_served()
        self.worker = Worker(self.model)
        self.read: list[tuple[str, str]] = []
        self.may_end = asyncio.Event()
        self.error: InvalidRequest | None = None

    async def check_grammar(self, model: ServedModel, grammar: str, owner: str) -> None:
        self.read.append((grammar, owner))
        await self.may_end.wait()
        if self.error is not None:
            raise self.error


class Hub:
    """Notes what is submitted, and how many cards the session holds then."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.num_held: list[int] = []
        self.session: Session | None = None

    def submit(self, model: ServedModel, opened: list[Opened]) -> None:
        assert self.session is not None
        self.submitted += [one.request.request_id for one in opened]
        self.num_held.append(self.session.num_held(model.checkpoint.fingerprint))

    def abort_all_of(self, session: Session) -> None:
        pass


class Talk:
    """An HTTP process's end of the socket, and a session at the other."""

    def __init__(self) -> None:
        self.runtime, self.hub = Runtime(), Hub()
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        arguments: tuple[Any, ...] = (self.runtime, self.hub, None, lambda _: None)
        self.session = Session(ours, "0", *arguments)
        self.hub.session = self.session
        self.fingerprint = self.runtime.model.checkpoint.fingerprint

    async def say(self, *sent: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.theirs, b"".join(sent))
        for _ in range(20):
            await asyncio.sleep(0.001)

    def submitting(self, *numbers: int, grammar: str | None = "start: /a/") -> bytes:
        heads, prompts = [], []
        for number in numbers:
            request: GenerationRequest = dataclasses.replace(
                generation_request("", [1, 2]), grammar=grammar
            )
            head, prompt = messages.encode_request(request)
            heads.append(head | {"number": number})
            prompts.append(prompt)
        said = {
            "group": 1,
            "client": "c",
            "owner": "c",
            "model": self.fingerprint,
            "requests": heads,
        }
        return message(Kind.SUBMIT, said, b"".join(prompts))

    def verdicts(self) -> list[Any]:
        content = self.theirs.recv(1 << 22)
        return [
            frames.read(payload)[0]["error"]
            for kind, payload in Splitter().feed(content)
            if kind is Kind.VERDICT
        ]

    def end(self) -> None:
        self.session.close()
        self.theirs.close()


def released(fingerprint: str) -> bytes:
    return message(Kind.RELEASE, {"model": fingerprint})


def test_an_abort_while_a_grammar_is_read_drops_its_group() -> None:
    async def talk() -> None:
        one = Talk()
        await one.say(one.submitting(5, 6))
        assert one.runtime.read == [("start: /a/", "c")]
        await one.say(frame(Kind.ABORT, NUMBER.pack(5)))
        one.runtime.may_end.set()
        await one.say(frame(Kind.ABORT, NUMBER.pack(7)))  # of another, which is not read
        assert one.hub.submitted == []
        assert one.runtime.worker.aborted == ["0.7"]
        assert [error is None for error in one.verdicts()] == [False]
        assert one.session.num_held(one.fingerprint) == 1
        one.end()

    asyncio.run(talk())


def test_a_model_is_held_while_a_grammar_is_read_though_its_card_is_given_back() -> None:
    async def talk() -> None:
        one = Talk()
        assert one.session.num_held(one.fingerprint) == 1
        await one.say(one.submitting(1), released(one.fingerprint))
        assert one.session.num_held(one.fingerprint) == 1
        one.runtime.may_end.set()
        await one.say()
        assert one.hub.num_held == [1]
        assert one.session.num_held(one.fingerprint) == 0
        one.end()

    asyncio.run(talk())


@pytest.mark.parametrize("is_refused", [True, False])
def test_after_the_verdict_nothing_is_kept(is_refused: bool) -> None:
    async def talk() -> None:
        one = Talk()
        if is_refused:
            one.runtime.error = InvalidRequest("it makes no sense")
        await one.say(one.submitting(1))
        one.runtime.may_end.set()
        await one.say()
        await one.say(frame(Kind.ABORT, NUMBER.pack(1)))
        assert one.session.num_held(one.fingerprint) == 1
        assert one.hub.submitted == ([] if is_refused else ["0.1"])
        assert [error is None for error in one.verdicts()] == [not is_refused]
        assert one.runtime.worker.aborted == ["0.1"]
        one.end()

    asyncio.run(talk())


def test_an_http_process_that_leaves_meanwhile_leaves_nothing() -> None:
    async def talk() -> None:
        one = Talk()
        await one.say(one.submitting(1))
        one.end()
        one.runtime.may_end.set()
        await asyncio.sleep(0.01)
        assert one.hub.submitted == []
        assert one.session.num_held(one.fingerprint) == 0

    asyncio.run(talk())

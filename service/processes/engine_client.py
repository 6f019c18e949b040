"""An HTTP process's way to the engine's: requests out, events in, and whole calls.

Text of tokens is made here, so that the engine's interpreter has less to do, but for requests with
stop strings, whose end depends on it.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import socket
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm.text.tokenizer import Tokenizer
from service.engine.output_text import TextStream
from service.engine.request import GenerationRequest, StepStats
from service.engine.request_faults import must_pass
from service.engine.served_model import ModelCard
from service.engine.worker import Turn
from service.errors import NotReady, ServiceError
from service.processes.wire import frames, messages
from service.processes.wire.channel import Channel
from service.processes.wire.frames import NUMBER, Kind, frame, message
from service.processes.wire.turns import events_of, read_turn
from service.requests.limits import BROKEN
from service.requests.tracker import Reply, Switchboard

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A request under way."""

    request_id: str
    text: TextStream | None
    """Makes its text, where the engine does not."""


class Door:
    """What the worker is elsewhere: takes requests, and has the current model's card."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._channel: Channel | None = None
        self.current: ModelCard | None = None
        self.is_known = asyncio.Event()
        """Whether the engine has said which model is current, if any."""
        self.is_lost = asyncio.Event()
        """Whether there is no engine any more."""
        self._counter = itertools.count()
        self._asked: dict[int, _Asked] = {}
        self._numbers: dict[str, int] = {}
        self._pending: list[tuple[ModelCard, int, GenerationRequest]] = []
        self._groups: dict[int, tuple[Sequence[Reply], asyncio.Future[None]]] = {}
        self._broken: set[int] = set()
        """Requests whose text cannot be made, until the engine has ended them."""
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._tokenizers: dict[str, Tokenizer] = {}
        self._cards: asyncio.Queue[tuple[Kind, bytes]] = asyncio.Queue()
        self._taking: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is an engine to talk to."""
        return self._channel is not None and self._channel.is_open

    def connect(self, path: Path) -> None:
        """Begin, in the event loop."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        self._channel = Channel(sock, self._on_frame, self._on_end)
        self._taking = asyncio.get_running_loop().create_task(self._take_cards())

    def close(self) -> None:
        """Hang up."""
        if self._taking is not None:
            self._taking.cancel()
        if self._channel is not None:
            self._channel.close()

    def submit(self, model: ModelCard, request: GenerationRequest) -> None:
        """Note a request; ``accepted`` sends it, with the others of its group."""
        number = next(self._counter)
        prompt_ids = request.prompt_ids
        text = None if request.stop else TextStream(model.tokenizer, (), prompt_ids=prompt_ids)
        self._asked[number] = _Asked(request.request_id, text)
        self._numbers[request.request_id] = number
        self._pending.append((model, number, request))

    def abort(self, request_id: str) -> None:
        """End a request before the next step; nothing if it has already ended."""
        number = self._numbers.get(request_id)
        if number is not None:
            self._send(frame(Kind.ABORT, NUMBER.pack(number)))

    async def accepted(self, replies: Sequence[Reply]) -> None:
        """Submit what was noted, and raise if the limits or the engine refuse it."""
        pending, self._pending = self._pending, []
        heads, prompts = [], []
        for _, number, request in pending:
            makes_text = self._asked[number].text is None
            sent = dataclasses.replace(request, request_id="", makes_text=makes_text)
            head, prompt = messages.encode_request(sent)
            heads.append(head | {"number": number})
            prompts.append(prompt)
        if not self.is_open:
            return  # they were opened; they fail as all others do
        group, decided = next(self._counter), asyncio.get_running_loop().create_future()
        self._groups[group] = (replies, decided)
        said = {
            "group": group,
            "client": replies[0].arrival.client,
            "owner": replies[0].arrival.party,
            "model": pending[0][0].checkpoint.fingerprint,
            "requests": heads,
        }
        self._send(message(Kind.SUBMIT, said, b"".join(prompts)))
        await decided

    async def find(self, name: str | None, deadline: float, party: str | None) -> ModelCard:
        """The card of a model by name; raises the ``ServiceError`` that says why not."""
        asked = {"name": name, "deadline": deadline, "party": party}
        card: ModelCard = await self._ask(Kind.NAME, asked)
        return card

    async def call(self, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Have a whole HTTP request answered; raises ``NotReady`` if there is no engine."""
        answer: tuple[dict[str, Any], bytes] = await self._ask(Kind.CALL, head, body)
        return answer

    def name(self, number: int) -> str:
        """The id of a request."""
        return self._asked[number].request_id

    def token_text(self, number: int, token_id: int, text: str) -> str:
        """A token's text, made here or by the engine."""
        stream = self._asked[number].text
        if stream is None or number in self._broken:
            return text
        try:
            return stream.push(token_id)[0]
        except BaseException as error:  # a tokenizer's panic, say: it ends this request alone
            if must_pass(error):
                raise
            logger.exception("a request's text could not be made")
            self._broken.add(number)
            return ""

    def end_text(self, number: int, text: str) -> str:
        """What was held back; the request has ended."""
        asked = self._asked.pop(number)
        del self._numbers[asked.request_id]
        if asked.text is None or number in self._broken:
            self._broken.discard(number)
            return text
        try:
            return asked.text.finish()[0]
        except BaseException as error:
            if must_pass(error):
                raise
            logger.exception("a request's last text could not be made")
            return ""

    async def _ask(self, kind: Kind, head: dict[str, Any], body: bytes = b"") -> Any:
        if not self.is_open:
            raise NotReady(BROKEN)
        number, answered = next(self._counter), asyncio.get_running_loop().create_future()
        self._calls[number] = answered
        self._send(message(kind, head | {"call": number}, body))
        try:
            return await answered
        except asyncio.CancelledError:
            if self._calls.pop(number, None) is not None and self.is_open:
                self._send(message(Kind.FORGET, {"call": number}))
            raise

    def _send(self, frame: bytes) -> None:
        assert self._channel is not None, "connect first"
        self._channel.send(frame)

    def _on_frame(self, kind: Kind, payload: bytes) -> None:
        match kind:
            case Kind.TURN:
                turn = read_turn(payload)
                events = events_of(turn, self)
                self._switchboard.on_turn(Turn(events, turn.began_at, turn.at, StepStats()))
                for number in self._broken:
                    self._switchboard.fail(self._asked[number].request_id)
            case Kind.VERDICT:
                self._on_verdict(frames.read(payload)[0])
            case Kind.ANSWER:
                head, content = frames.read(payload)
                _settle(self._calls.pop(head["call"], None), (head, content))
            case Kind.TOKENIZER | Kind.CURRENT | Kind.NAMED:
                self._cards.put_nowait((kind, payload))
            case _:
                raise AssertionError(f"{kind.name} is for the engine")

    def _on_verdict(self, said: dict[str, Any]) -> None:
        replies, decided = self._groups.pop(said["group"])
        if said["error"] is None:
            _settle(decided, None)
            return
        for reply in replies:
            self.end_text(self._numbers[reply.request.request_id], "")
            self._switchboard.withdraw(reply)
        _fail(decided, messages.decode_error(said["error"]))

    async def _take_cards(self) -> None:
        """Take tokenizers and cards in the order of their coming."""
        try:
            while True:
                await self._take_card(*await self._cards.get())
        except asyncio.CancelledError:
            raise
        except BaseException:  # whoever waits for a card would wait for ever
            logger.exception("a card makes no sense, and the channel is closed")
            self.close()

    async def _take_card(self, kind: Kind, payload: bytes) -> None:
        head, body = frames.read(payload)
        if kind is Kind.TOKENIZER:  # large: in a thread, so that streams go on
            made = await asyncio.to_thread(_tokenizer, head, body)
            self._tokenizers[head["fingerprint"]] = made
        elif kind is Kind.CURRENT:
            self.current = None if head["card"] is None else self._card(head["card"])
            self.is_known.set()
        elif "error" in head:
            _fail(self._calls.pop(head["call"], None), messages.decode_error(head["error"]))
        else:
            card = self._card(head["card"])  # which is released where nobody waits for it
            _settle(self._calls.pop(head["call"], None), card)

    def _card(self, head: dict[str, Any]) -> ModelCard:
        """A card, of whose end the engine is told."""
        card = messages.decode_card(head, self._tokenizers[head["tokenizer"]])
        released = message(Kind.RELEASE, {"model": card.checkpoint.fingerprint})
        loop = asyncio.get_running_loop()

        def release() -> None:  # in whichever thread the last user of the card ends
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._send, released)

        weakref.finalize(card, release).atexit = False
        return card

    def _on_end(self) -> None:
        for answered in self._calls.values():
            _fail(answered, NotReady(BROKEN))
        for _, decided in self._groups.values():
            _settle(decided, None)  # they were opened; now they fail as all others do
        self.is_lost.set()


def _tokenizer(head: dict[str, Any], body: bytes) -> Tokenizer:
    """A tokenizer that has ready what every request needs."""
    tokenizer = messages.decode_tokenizer(head, body)
    _ = tokenizer.token_bytes
    return tokenizer


def _settle(future: "asyncio.Future[Any] | None", result: object) -> None:
    if future is not None and not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any] | None", error: ServiceError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)

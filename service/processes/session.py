"""The engine's side of the talk with one HTTP process: what it asks for, and which models it holds.

A model whose card an HTTP process holds stays in memory, as one does that a variable holds.
"""

import asyncio
import collections
import dataclasses
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from service.engine.served_model import ServedModel
from service.errors import InvalidRequest, ServiceError
from service.processes.multiplexer import Hub, Opened
from service.processes.wire import frames, messages
from service.processes.wire.channel import Channel
from service.processes.wire.frames import NUMBER, Kind, message
from service.runtime import Runtime

Answer = Callable[[dict[str, Any], bytes], Awaitable[tuple[dict[str, Any], bytes]]]
"""Answers a whole HTTP request; see ``forward``."""

logger = logging.getLogger(__name__)


class Session:
    """One HTTP process, from its connection to its end."""

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        runtime: Runtime,
        hub: Hub,
        answer: Answer,
        on_end: Callable[["Session"], None],
    ) -> None:
        self._name = name
        self._runtime = runtime
        self._hub = hub
        self._answer = answer
        self._tell_end = on_end
        self._held: dict[str, ServedModel] = {}
        self._num_cards: collections.Counter[str] = collections.Counter()
        self._tokenizers: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._checking: dict[int, asyncio.Task[None]] = {}
        """By each number of a group whose grammars are being read."""

        self._calls: dict[int, asyncio.Task[None]] = {}
        """What an HTTP process waits for, by its number there."""
        self._channel = Channel(sock, self._on_frame, self._on_end)
        self.send = self._channel.send
        self.announce(runtime.worker.current)

    @property
    def is_open(self) -> bool:
        """Whether the HTTP process still listens."""
        return self._channel.is_open

    def num_held(self, fingerprint: str) -> int:
        """Cards of a model that it holds; any thread may ask."""
        return self._num_cards[fingerprint]

    def announce(self, model: ServedModel | None) -> None:
        """New requests go to this model, if to any."""
        card = None if model is None else self._grant(model)
        self.send(message(Kind.CURRENT, {"card": card}))

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _grant(self, model: ServedModel) -> dict[str, Any]:
        """A card for it to hold, behind the tokenizer that it names."""
        fingerprint = model.checkpoint.fingerprint
        self._held[fingerprint] = model
        self._num_cards[fingerprint] += 1
        if model.tokenizer.fingerprint not in self._tokenizers:
            self._tokenizers.add(model.tokenizer.fingerprint)
            self.send(message(Kind.TOKENIZER, *messages.encode_tokenizer(model.tokenizer)))
        return messages.encode_card(model)

    def _on_frame(self, kind: Kind, payload: bytes) -> None:
        match kind:
            case Kind.ABORT:
                self._abort(*NUMBER.unpack(payload))
            case Kind.RELEASE:
                self._release(frames.read(payload)[0]["model"])
            case Kind.SUBMIT:
                self._on_submit(*frames.read(payload))
            case Kind.NAME:
                asked = frames.read(payload)[0]
                self._begin(self._find(asked), asked["call"])
            case Kind.CALL:
                asked, body = frames.read(payload)
                self._begin(self._call(asked, body), asked["call"])
            case Kind.FORGET:
                task = self._calls.get(frames.read(payload)[0]["call"])
                if task is not None:
                    task.cancel()
            case _:
                raise AssertionError(f"{kind.name} is for HTTP processes")

    def _on_submit(self, head: dict[str, Any], body: bytes) -> None:
        model = self._held[head["model"]]
        opened = []
        for one, prompt in zip(
            head["requests"], messages.prompts(head["requests"], body), strict=True
        ):
            number = one.pop("number")
            request = messages.decode_request(one | {"request_id": self._id_of(number)}, prompt)
            opened.append(
                Opened(self, number, head["client"], request, model.checkpoint.fingerprint)
            )
        if opened[0].request.grammar is None:
            self._submit(head["group"], model, opened)
            return
        group = head["group"]
        self._num_cards[head["model"]] += 1  # held even if the HTTP process lets go of its card
        task = self._begin(self._submit_checked(group, model, opened, head["owner"]))
        self._checking |= {one.number: task for one in opened}
        task.add_done_callback(lambda done: self._on_checked(group, opened, done))

    def _abort(self, number: int) -> None:
        """End a request, or what is done before it is one."""
        checking = self._checking.get(number)
        if checking is None:
            self._runtime.worker.abort(self._id_of(number))
        else:  # the others of its group are aborted, too
            checking.cancel()

    async def _submit_checked(
        self, group: int, model: ServedModel, opened: list[Opened], owner: str
    ) -> None:
        """Read the grammar first, the same for all of a group: the worker finds it ready."""
        grammar = opened[0].request.grammar
        assert grammar is not None, "there is one to read"
        try:
            prepared = await self._runtime.check_grammar(model, grammar, owner)
        except ServiceError as error:
            self._judge(group, error)
            return
        if self.is_open:
            for one in opened:
                one.request = dataclasses.replace(one.request, prepared=prepared)
            self._submit(group, model, opened)

    def _on_checked(self, group: int, opened: list[Opened], task: "asyncio.Task[None]") -> None:
        """A group's grammar was read, or nobody wants it any more."""
        for one in opened:
            del self._checking[one.number]
        if self.is_open:
            self._release(opened[0].fingerprint)
        if task.cancelled() and self.is_open:
            self._judge(group, InvalidRequest("the client has left"))

    def _submit(self, group: int, model: ServedModel, opened: list[Opened]) -> None:
        try:
            self._hub.submit(model, opened)
        except ServiceError as error:
            self._judge(group, error)
        else:
            self._judge(group, None)

    def _judge(self, group: int, error: ServiceError | None) -> None:
        said = None if error is None else messages.encode_error(error)
        self.send(message(Kind.VERDICT, {"group": group, "error": said}))

    async def _find(self, asked: dict[str, Any]) -> None:
        said: dict[str, Any] = {"call": asked["call"]}
        try:
            model = await self._runtime.model_named(
                asked["name"], asked["deadline"], asked["party"]
            )
            said["card"] = self._grant(model)
        except ServiceError as error:
            error.message = self._runtime.catalog.from_inside(error.message)
            said["error"] = messages.encode_error(error)
        self.send(message(Kind.NAMED, said))

    async def _call(self, head: dict[str, Any], body: bytes) -> None:
        answer, content = await self._answer(head, body)
        self.send(message(Kind.ANSWER, {"call": head["call"], **answer}, content))

    def _begin(
        self, work: Coroutine[Any, Any, None], call: int | None = None
    ) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        if call is not None:
            self._calls[call] = task
            task.add_done_callback(lambda _: self._calls.pop(call, None))
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("what an HTTP process asked for failed", exc_info=error)
            self.close()

    def _id_of(self, number: int) -> str:
        return f"{self._name}.{number}"

    def _release(self, fingerprint: str) -> None:
        self._num_cards[fingerprint] -= 1
        if not self._num_cards[fingerprint]:
            del self._num_cards[fingerprint]
            del self._held[fingerprint]

    def _on_end(self) -> None:
        """The HTTP process is gone: nobody listens to its requests, and it holds no model."""
        for task in self._tasks:
            task.cancel()
        self._hub.abort_all_of(self)
        self._held.clear()
        self._num_cards.clear()
        self._tell_end(self)

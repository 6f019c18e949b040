"""Clients that never stop asking: whatever happens to the volume must not happen to them."""

import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx
from toys import toy_decoder, toy_tokenizer

from serving.engines import generation_request, reference_ids
from serving.sse import Stream, stream_generate
from serving.waiting import wait_until

PROMPT = "To be"


class Crowd:
    """Streams greedy answers while entered, and compares each with the reference generator.

    ``seed_of`` says from which seed the toy of a step was made.
    """

    def __init__(
        self,
        client: httpx.Client,
        *,
        num_clients: int = 2,
        max_new_tokens: int = 20,
        seed_of: Callable[[int], int] = lambda step: step,
    ) -> None:
        self._client = client
        self._max_new_tokens = max_new_tokens
        self._seed_of = seed_of
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(num_clients)]
        self.answered: list[str] = []
        """Names of the checkpoints that answered, in the order of the answers' ends."""
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, name: str, count: int = 2) -> None:
        """Wait for so many more answers of a checkpoint, all of them asked for from now on."""
        before = len(self.answered)
        in_flight = len(self._threads)
        wait_until(
            lambda: self.failures or self.answered[before + in_flight :].count(name) >= count,
            f"{name} answers",
            timeout_s=60,
        )
        self.check()

    def check(self) -> None:
        """Nothing has failed, and nobody got another model's text."""
        assert self.failures == []

    def _ask(self) -> None:
        while not self._is_over.is_set():
            try:
                stream = stream_generate(
                    self._client,
                    prompt=PROMPT,
                    max_new_tokens=self._max_new_tokens,
                    temperature=0,
                )
                fault = self._fault(stream)
            except Exception as error:  # noqa: BLE001  whatever it is, the test is to tell
                fault = f"{type(error).__name__}: {error}"
            if fault is not None:
                self.failures.append(fault)
                return
            self.answered.append(stream.final["checkpoint"]["name"])

    def _fault(self, stream: Stream) -> str | None:
        if not stream.is_done or "finish_reason" not in stream.final:
            return f"status {stream.status}: {stream.events[-1:]}"
        checkpoint = stream.final["checkpoint"]
        expected = self._expected(self._seed_of(checkpoint["step"]))
        if stream.text != expected:
            return f"{checkpoint['name']} said {stream.text!r}, not {expected!r}"
        return None

    @functools.cache  # noqa: B019  the crowd lives as long as its test
    def _expected(self, seed: int) -> str:
        token_ids = tuple(toy_tokenizer().encode(PROMPT))
        request = generation_request("a", token_ids, max_new_tokens=self._max_new_tokens)
        return toy_tokenizer().decode(reference_ids(toy_decoder(seed).double(), request))

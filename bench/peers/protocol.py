"""The protocol of ``bench.engine`` for peers that decode many requests in steps.

It runs inside a peer's environment and imports nothing but the standard library.
"""

import json
import random
import resource
import statistics
import time
from typing import Protocol

PROMPT_TOKENS = 128
NEW_TOKENS = 128
STREAMS = (1, 8, 32)
TTFT_TOKENS = (512, 1024)
STEP_TOKENS = 2048
"""At most this many tokens a step, where the peer has a limit; its own default is not less."""


class Peer(Protocol):
    """An engine that batches continuously."""

    def submit(self, prompts: list[list[int]], new_tokens: int) -> None:
        """Queue prompts of token ids: greedy, end tokens ignored."""

    def step(self) -> list[int]:
        """Compute one step; the tokens that each stream has so far."""

    def perplexity(self, windows: list[list[int]]) -> float:
        """Of token ids, each window from an empty cache."""


def rates(peer: Peer, streams: int, new_tokens: int, seed: int) -> tuple[float, float]:
    """Tokens a second while all decode, and end to end with their prompts."""
    began = time.perf_counter()
    peer.submit(random_prompts(streams, PROMPT_TOKENS, seed), new_tokens)
    decoding, before, tokens = None, 0, 0
    while tokens < streams * new_tokens:
        counts = peer.step()
        tokens = sum(counts)
        if decoding is None and min(counts) > 0:
            decoding, before = time.perf_counter(), tokens
    ended = time.perf_counter()
    assert decoding is not None
    return (tokens - before) / (ended - decoding), tokens / (ended - began)


def first_token_s(peer: Peer, length: int, seed: int) -> float:
    """Seconds from submitting one prompt until its first token."""
    prompts = random_prompts(1, length, seed)
    began = time.perf_counter()
    peer.submit(prompts, 1)
    while sum(peer.step()) == 0:
        pass
    return time.perf_counter() - began


def random_prompts(streams: int, length: int, seed: int) -> list[list[int]]:
    """Distinct prompts, the same as ours for a seed."""
    rng = random.Random(seed)
    return [[rng.randrange(1000) for _ in range(length)] for _ in range(streams)]


def measure(peer: Peer, name: str, precision: str, made: str, repeats: int) -> dict[str, object]:
    """A peer's row, but for its perplexity. ``made`` says how its file was made."""
    row: dict[str, object] = {"peer": name, "precision": precision, "made": made}
    for streams in STREAMS:
        rates(peer, streams, 64, seed=99)
        measured = [rates(peer, streams, NEW_TOKENS, seed) for seed in range(repeats)]
        row[f"decode_{streams}"] = round(statistics.median(d for d, _ in measured), 1)
        row[f"e2e_{streams}"] = round(statistics.median(e for _, e in measured), 1)
    for length in TTFT_TOKENS:
        first_token_s(peer, length, seed=99)
        times = [first_token_s(peer, length, seed) for seed in range(repeats)]
        row[f"ttft_{length}_ms"] = round(1000 * statistics.median(times), 1)
    row["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    return row


def finish(peer: Peer, row: dict[str, object], windows: list[list[int]]) -> None:
    """Add the perplexity, after the memory was counted, and print the row."""
    row["perplexity"] = round(peer.perplexity(windows), 3) if windows else None
    print(json.dumps(row), flush=True)

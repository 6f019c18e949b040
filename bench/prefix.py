"""What a prompt costs that begins like an earlier one: time to first token, with and without reuse.

Greedy, one request at a time, medians over repeats after a warm-up:

- shared: a prompt of 512 + 32 tokens, then one with the same 512 and 32 others;
- chat: turns that each bring 64 new tokens and an answer of 32, over a history that grows.
"""

import argparse
import json
import random
import statistics
import time

from bench.engine import silent_tokenizer
from bench.machine import machine
from bench.open import Opener, add_options
from lm.sampling import SamplingParams
from service.engine.engine import Engine
from service.engine.request import GenerationRequest, TokenGenerated

SHARED_TOKENS = 512
OWN_TOKENS = 32
TURN_TOKENS = 64
ANSWER_TOKENS = 32
TURNS = 8
SLOTS = 8
STEP_TOKENS = 256


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    opener = Opener(options)
    rows = {
        "reuse": measure(opener, options.repeats, reuse_prefixes=True),
        "no reuse": measure(opener, options.repeats, reuse_prefixes=False),
    }
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{key} {value}" for key, value in row.items()) + " |")
    print(json.dumps({"benchmark": "prefix", **machine(), "runner": opener.name, **rows}))


def measure(opener: Opener, repeats: int, *, reuse_prefixes: bool) -> dict[str, object]:
    """Medians with or without reuse, in milliseconds."""
    pairs = [shared_prefix(opener, seed, reuse_prefixes=reuse_prefixes) for seed in range(repeats)]
    first, second = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    turns = [1000 * seconds for seconds in chat(opener, reuse_prefixes=reuse_prefixes)]
    return {
        "ttft_first_ms": round(first, 1),
        "ttft_second_ms": round(second, 1),
        "ratio": round(second / first, 3),
        "chat_turns_ms": [round(turn, 1) for turn in turns],
    }


def make_engine(opener: Opener, *, reuse_prefixes: bool) -> Engine:
    """An engine with a few slots, as warm as it gets without a request."""
    engine = Engine(
        opener.runner(num_slots=SLOTS, max_tokens=1024, max_step_tokens=STEP_TOKENS),
        silent_tokenizer(),
        max_step_tokens=STEP_TOKENS,
        reuse_prefixes=reuse_prefixes,
        speculation=False,
    )
    engine.warm_up()
    return engine


def ask(engine: Engine, prompt_ids: list[int], new_tokens: int) -> tuple[float, list[int]]:
    """Seconds to the first token, and the answer."""
    engine.submit(
        GenerationRequest(
            request_id="bench",
            prompt_ids=tuple(prompt_ids),
            max_new_tokens=new_tokens,
            sampling=SamplingParams(temperature=0.0),
        )
    )
    began = time.perf_counter()
    first = None
    answer: list[int] = []
    while not engine.is_idle:
        answer += [event.token_id for event in engine.step() if isinstance(event, TokenGenerated)]
        if answer and first is None:
            first = time.perf_counter() - began
    assert first is not None
    return first, answer


def shared_prefix(opener: Opener, seed: int, *, reuse_prefixes: bool) -> tuple[float, float]:
    """Time to the first token of two prompts that begin with the same 512 tokens."""
    engine = make_engine(opener, reuse_prefixes=reuse_prefixes)
    rng = random.Random(seed)
    ask(engine, tokens(rng, SHARED_TOKENS + OWN_TOKENS), 1)  # warms the shapes, shares nothing
    shared = tokens(rng, SHARED_TOKENS)
    first, _ = ask(engine, shared + tokens(rng, OWN_TOKENS), 1)
    second, _ = ask(engine, shared + tokens(rng, OWN_TOKENS), 1)
    return first, second


def chat(opener: Opener, *, reuse_prefixes: bool) -> list[float]:
    """Time to the first token of each turn of one conversation."""
    engine = make_engine(opener, reuse_prefixes=reuse_prefixes)
    rng = random.Random(0)
    history: list[int] = []
    times = []
    for _ in range(TURNS):
        history += tokens(rng, TURN_TOKENS)
        seconds, answer = ask(engine, history, ANSWER_TOKENS)
        history += answer
        times.append(seconds)
    return times


def tokens(rng: random.Random, count: int) -> list[int]:
    """Random token ids."""
    return [rng.randrange(1000) for _ in range(count)]


if __name__ == "__main__":
    main()

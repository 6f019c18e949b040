"""What guessing tokens gains where a text repeats itself, and that it costs nothing elsewhere.

One stream with and without, in turns, greedy, real weights (``--weights``): named prompts whose
answers copy (a summary, an edit of code, a chat that quotes), and Shakespeare's, whose do not. Then
32 streams together. Rates are generated tokens over the time of the steps that decode; ratios are
with over without. End tokens end an answer, as in service.
"""

import argparse
import json
import random
import statistics
import time

from bench.engine import silent_tokenizer
from bench.machine import machine
from bench.open import Opener, add_options
from bench.speculation_prompts import COPYING, VERSE
from lm.sampling import SamplingParams
from lm.text.tokenizer import Tokenizer
from service.engine.engine import Engine
from service.engine.request import GenerationRequest, TokenGenerated

NEW_TOKENS = 192
MAX_TOKENS = 1024
STEP_TOKENS = 256
TOGETHER = 32


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    opener = Opener(options)
    rows = {
        name: compare(opener, [chat(opener.tokenizer, prompt)], 0.0, options.repeats)
        for name, prompt in COPYING.items()
    }
    ratios = [row["ratio"] for row in rows.values()]
    verse = opener.tokenizer.encode(VERSE)
    rows["shakespeare, greedy"] = compare(opener, [verse], 0.0, options.repeats)
    rows["shakespeare, drawn"] = compare(opener, [verse], 0.8, options.repeats)
    rows[f"{TOGETHER} streams"] = compare(opener, strangers(), 0.0, options.repeats)
    print("| prompt | " + " | ".join(next(iter(rows.values()))) + " |")
    print("|---" * (1 + len(next(iter(rows.values())))) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(map(str, row.values())) + " |")
    gain = round(statistics.geometric_mean(ratios), 2)
    print(f"copying prompts together: {gain}")
    result = {"benchmark": "speculation", **machine(), "runner": opener.name}
    print(json.dumps({**result, "copying_ratio": gain, "rows": rows}))


def chat(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """One turn in the format that SmolLM2-Instruct was trained on."""
    return tokenizer.encode(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")


def strangers() -> list[list[int]]:
    """Random distinct prompts."""
    rng = random.Random(0)
    return [[rng.randrange(1000) for _ in range(128)] for _ in range(TOGETHER)]


def compare(
    opener: Opener, prompts: list[list[int]], temperature: float, repeats: int
) -> dict[str, float]:
    """Rates of some streams with and without guesses, in turns, and what became of the guesses."""
    engines = {name: make_engine(opener, len(prompts), speculation=name) for name in (False, True)}
    rates: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(repeats + 1):
        for name, engine in engines.items():
            rate, tokens, drafted, accepted = decode(engine, prompts, temperature)
            if repeat:  # the first warms up
                rates[name].append(rate)
    without, with_guesses = (statistics.median(rates[name]) for name in (False, True))
    return {
        "tokens": tokens,
        "without tok/s": round(without, 1),
        "with tok/s": round(with_guesses, 1),
        "ratio": round(with_guesses / without, 3),
        "guessed": drafted,
        "accepted": accepted,
    }


def make_engine(opener: Opener, streams: int, *, speculation: bool) -> Engine:
    """An engine that guesses or does not."""
    runner = opener.runner(num_slots=streams, max_tokens=MAX_TOKENS, max_step_tokens=STEP_TOKENS)
    tokenizer = opener.tokenizer if streams == 1 else silent_tokenizer()
    return Engine(
        runner,
        tokenizer,
        max_step_tokens=STEP_TOKENS,
        reuse_prefixes=False,
        speculation=speculation,
    )


def decode(
    engine: Engine, prompts: list[list[int]], temperature: float
) -> tuple[float, int, int, int]:
    """Tokens a second while all decode; tokens, guesses and right guesses of the whole."""
    for number, prompt_ids in enumerate(prompts):
        engine.submit(
            GenerationRequest(
                request_id=str(number),
                prompt_ids=tuple(prompt_ids),
                max_new_tokens=NEW_TOKENS if len(prompts) == 1 else NEW_TOKENS // 2,
                sampling=SamplingParams(temperature=temperature, seed=7),
            )
        )
    spent = 0.0
    tokens = decoded = drafted = accepted = 0
    while not engine.is_idle:
        began = time.perf_counter()
        events = engine.step()
        stats = engine.stats()
        count = sum(isinstance(event, TokenGenerated) for event in events)
        tokens += count
        if stats.num_tokens - stats.num_draft_tokens == stats.batch_size:
            spent += time.perf_counter() - began
            decoded += count
        drafted += stats.num_draft_tokens
        accepted += stats.num_accepted_tokens
    return decoded / spent, tokens, drafted, accepted


if __name__ == "__main__":
    main()

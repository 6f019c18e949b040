"""Engines and prompts of the measurements on a GPU."""

import random

from bench.gpu_model import silent_tokenizer
from lm.sampling import SamplingParams
from service.engine.gpu.runner import GpuRunner
from service.engine.overlapped import OverlappedEngine
from service.engine.phase_timer import Profile
from service.engine.request import GenerationRequest

MAX_TOKENS = STEP_TOKENS = 2048
SAMPLING = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature 0.8": SamplingParams(temperature=0.8),
    "top-k 50, top-p 0.95": SamplingParams(temperature=0.8, top_p=0.95, top_k=50),
}


def make_engine(
    runner: GpuRunner, *, speculation: bool = False, laps: Profile | None = None
) -> OverlappedEngine:
    """An engine that reuses no prefix."""
    return OverlappedEngine(
        runner,
        silent_tokenizer(),
        max_step_tokens=STEP_TOKENS,
        reuse_prefixes=False,
        speculation=speculation,
        laps=laps,
    )


def submit(
    served: OverlappedEngine, asked: list[list[int]], new_tokens: int, sampling: SamplingParams
) -> None:
    """Queue prompts."""
    for number, prompt in enumerate(asked):
        served.submit(
            GenerationRequest(
                request_id=str(number),
                prompt_ids=tuple(prompt),
                max_new_tokens=new_tokens,
                sampling=sampling,
            )
        )


def prompts(streams: int, length: int, seed: int) -> list[list[int]]:
    """Random distinct prompts."""
    rng = random.Random(seed)
    return [[rng.randrange(1000) for _ in range(length)] for _ in range(streams)]

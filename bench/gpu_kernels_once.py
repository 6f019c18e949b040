"""Runs every kernel of a GPU's engine a few times on a small model, and compares what comes of it.

Texts of several lengths go through the recorded steps and are compared with the definition; then
streams of every way of drawing are served together, and each token is looked for where the
definition would have drawn it; then greedy answers to 20 prompts are compared with transformers'
logits of the same weights, where it is installed. Small enough for ``compute-sanitizer``, which
makes everything some hundred times slower; ``--full`` takes SmolLM2-135M's shape instead. Prints
one JSON line; exits 1 where something is wrong.
"""

import argparse
import dataclasses
import importlib.util
import json
import random
import sys

import torch
from torch import Tensor

from bench.gpu_model import silent_tokenizer, smollm2
from bench.machine import machine
from lm.huggingface.config import to_hf
from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from lm.sampling import SamplingParams, adjusted_logits, counter_uniform, kept_logits
from service.engine.gpu.buffers.cache import GpuCache
from service.engine.gpu.buffers.filling import fill, tensors_of
from service.engine.gpu.buffers.weight_set import HEAD_ROWS, WeightSet
from service.engine.gpu.fused import FusedKernels, FusedSampler
from service.engine.gpu.placing import FusedModels
from service.engine.gpu.runner import GpuRunner
from service.engine.gpu.verification import TOLERANCE, apart
from service.engine.overlapped import OverlappedEngine
from service.engine.request import GenerationRequest, TokenGenerated
from service.engine.scheduling.slots import SlotPool

SMALL = ModelConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rope_theta=10_000.0,
)
TEXTS = ((1, 3), (17, 4), (70, 2), (130, 2))
"""(tokens of the prompt, tokens decoded behind it): within a tile, and over several."""
DRAWN = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.9, seed=1),
    SamplingParams(temperature=0.8, top_k=20, top_p=0.9, seed=2),
    SamplingParams(temperature=1.2, min_p=0.05, seed=3),
    SamplingParams(temperature=0.7, seed=4, repetition_penalty=1.3, logit_bias=((7, 2.0),)),
)
CLEARLY_WORSE = 0.3
"""Standard deviations of a token's logits: what is nearer to the likeliest may be rounding."""
CLEARLY_ELSEWHERE = 0.1
"""Of the cumulative distribution: a uniform number that is further from its token's interval."""
NEW_TOKENS = 12
NUM_PROMPTS = 20


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="SmolLM2-135M's shape")
    parser.add_argument("--device", default="cuda", help="cpu with TRITON_INTERPRET=1: slow")
    parser.add_argument("--layers", type=int, help="fewer or more than the shape has")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench.gpu_kernels_once: PyTorch sees no CUDA device")
    config = smollm2() if options.full else SMALL
    config = dataclasses.replace(config, max_position_embeddings=256)
    if options.layers:
        config = dataclasses.replace(config, num_hidden_layers=options.layers)
    decoder = Decoder(config)
    initialize(decoder, seed=0)
    runner = make_runner(decoder, device)
    away = distance(runner)
    elsewhere = drawn_elsewhere(runner)
    misses = transformers_misses(runner, decoder)
    found = {"distance": away, "drawn_elsewhere": elsewhere, "transformers_misses": misses}
    card = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    shape = {"layers": config.num_hidden_layers, "hidden_size": config.hidden_size}
    print(json.dumps({"benchmark": "gpu kernels", **machine(), "card": card, **shape, **found}))
    if away > TOLERANCE or elsewhere or misses:
        sys.exit("bench.gpu_kernels_once: the kernels do not compute what the definition does")


def make_runner(decoder: Decoder, device: torch.device) -> GpuRunner:
    """A runner over few slots, so that few steps are recorded; on a CPU none are."""
    config, num_slots = decoder.config, 8
    if device.type == "cuda":
        weights = tensors_of(decoder.to(torch.bfloat16).state_dict().items())
        models = FusedModels(device, num_slots=num_slots, max_step_tokens=160)
        return models.runner(config, weights, config.max_position_embeddings)
    cache = GpuCache(
        config,
        num_slots=num_slots,
        max_tokens=config.max_position_embeddings,
        dtype=torch.float32,
        device=device,
    )
    weight_set = WeightSet(
        config,
        cache.tensors,
        num_slots=num_slots,
        max_step_tokens=160,
        kernels=FusedKernels(),
        sampler=FusedSampler(HEAD_ROWS[-1], config.vocab_size, num_slots + 1, device),
        record=lambda compute: compute,
    )
    fill(weight_set.weights, config, tensors_of(decoder.state_dict().items()))
    return GpuRunner(weight_set, cache, SlotPool(num_slots))


def distance(runner: GpuRunner) -> float:
    """Largest distance of a token's logits from the definition's, as a share of their norm."""
    largest = 0.0
    for num_prompt, num_decoded in TEXTS:
        token_ids = prompt(num_prompt + num_decoded, runner.config.vocab_size, seed=num_prompt)
        wanted = runner.score(token_ids)[num_prompt - 1 :].float().cpu()
        got = runner.run_alone(token_ids, num_prompt).float().cpu()
        off = apart(got, wanted)
        print(
            f"{num_prompt} + {num_decoded} tokens: {off:.3%} away from the definition", flush=True
        )
        largest = max(largest, off if off == off else float("inf"))  # NaN is no distance
    return round(largest, 5)


def drawn_elsewhere(runner: GpuRunner) -> int:
    """Tokens that the definition would clearly not have drawn, of streams served together."""
    asked = [
        GenerationRequest(
            request_id=str(number),
            prompt_ids=tuple(prompt(3 + 11 * number, runner.config.vocab_size, seed=number)),
            max_new_tokens=NEW_TOKENS,
            sampling=sampling,
            logprobs=1 if number == 1 else None,
        )
        for number, sampling in enumerate(DRAWN)
    ]
    answers = serve(runner, asked)
    count = 0
    for request, answer in zip(asked, answers, strict=True):
        known = [*request.prompt_ids, *answer]
        logits = runner.score(known)[len(request.prompt_ids) - 1 : -1].float().cpu()
        off = [
            is_elsewhere(row, request, answer[:index], token_id)
            for index, (row, token_id) in enumerate(zip(logits, answer, strict=True))
        ]
        print(f"{request.sampling}: {sum(off)} of {len(off)} tokens drawn elsewhere", flush=True)
        count += sum(off)
    return count


def is_elsewhere(
    logits: Tensor, request: GenerationRequest, output_ids: list[int], token_id: int
) -> bool:
    """Whether a token was clearly not drawn from these logits [V] behind this output."""
    params = request.sampling
    logits = adjusted_logits(logits, params, request.prompt_ids, output_ids)
    if params.is_greedy:
        return bool((logits.max() - logits[token_id]) / logits.std() > CLEARLY_WORSE)
    shares = kept_logits(logits, params).double().softmax(-1)
    end = float(shares[: token_id + 1].sum())
    begin = end - float(shares[token_id])
    uniform = counter_uniform(params.seed, len(output_ids))
    return not begin - CLEARLY_ELSEWHERE <= uniform <= end + CLEARLY_ELSEWHERE


def transformers_misses(runner: GpuRunner, decoder: Decoder) -> int | None:
    """Tokens of 20 greedy answers that transformers thinks clearly worse; ``None`` without it."""
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: not compared with it", flush=True)
        return None
    import transformers

    config = transformers.LlamaConfig(**to_hf(decoder.config))
    theirs = transformers.LlamaForCausalLM(config).eval()
    state = {name: tensor.float() for name, tensor in decoder.state_dict().items()}
    theirs.load_state_dict(state, strict=not decoder.config.tie_word_embeddings)
    theirs.to(runner.cache.key.device)
    asked = [
        GenerationRequest(
            request_id=str(number),
            prompt_ids=tuple(prompt(1 + 6 * number, runner.config.vocab_size, seed=number)),
            max_new_tokens=NEW_TOKENS,
            sampling=SamplingParams(temperature=0.0),
        )
        for number in range(NUM_PROMPTS)
    ]
    misses = 0
    for request, answer in zip(asked, serve(runner, asked), strict=True):
        token_ids = torch.tensor([[*request.prompt_ids, *answer]], device=runner.cache.key.device)
        with torch.inference_mode():
            logits = theirs(token_ids).logits[0, len(request.prompt_ids) - 1 : -1].cpu()
        chosen = logits.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        misses += int(((logits.amax(-1) - chosen) / logits.std(-1) > CLEARLY_WORSE).sum())
    print(f"{misses} of {NUM_PROMPTS * NEW_TOKENS} greedy tokens are clearly worse by transformers")
    return misses


def serve(runner: GpuRunner, asked: list[GenerationRequest]) -> list[list[int]]:
    """The tokens that each request gets, all served together."""
    engine = OverlappedEngine(
        runner, silent_tokenizer(), max_step_tokens=160, reuse_prefixes=False, speculation=True
    )
    answers: dict[str, list[int]] = {request.request_id: [] for request in asked}
    for request in asked:
        engine.submit(request)
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, TokenGenerated):
                answers[event.request_id].append(event.token_id)
    for request in asked:
        assert len(answers[request.request_id]) == request.max_new_tokens, "a request ended early"
    return [answers[request.request_id] for request in asked]


def prompt(length: int, vocab_size: int, seed: int) -> list[int]:
    """Random token ids."""
    rng = random.Random(seed)
    return [rng.randrange(vocab_size) for _ in range(length)]


if __name__ == "__main__":
    main()

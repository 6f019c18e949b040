"""Engines and models over toy decoders, and decoders that a test holds or breaks."""

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from toys import toy_config, toy_decoder, toy_tokenizer

from lm.generate import generate
from lm.model.attention import Attend
from lm.model.config import ModelConfig
from lm.model.decoder import Decoder
from lm.model.initialize import initialize
from lm.safetensors_file import Piece
from lm.sampling import SamplingParams
from lm.text.tokenizer import Tokenizer
from service.engine.engine import Engine
from service.engine.gpu.buffers.cache import GpuCache
from service.engine.gpu.buffers.filling import fill
from service.engine.gpu.buffers.weight_set import WeightSet
from service.engine.gpu.kernel_set import Sampler, StepKernels
from service.engine.gpu.runner import GpuRunner
from service.engine.overlapped import OverlappedEngine
from service.engine.pytorch.cache import SlotCache
from service.engine.pytorch.runner import Runner
from service.engine.request import GenerationRequest
from service.engine.scheduling.slots import SlotPool
from service.engine.served_model import Checkpoint, ServedModel
from serving.plain_kernels import PlainKernels, PlainSampler


class GatedDecoder(Decoder):
    """Computes one step a permit, so that a test decides when a step ends."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.permits = threading.Semaphore(0)
        self.is_open = False
        self.num_begun = 0
        self.fault: Exception | None = None
        """Raised at the end of a step, if it is set."""

    def hidden(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        self.num_begun += 1
        if not self.is_open:
            assert self.permits.acquire(timeout=30), "the test forgot to release a step"
        if self.fault is not None:
            raise self.fault
        return super().hidden(token_ids, positions, attend)

    def release(self, steps: int = 1) -> None:
        """Let so many steps end."""
        self.permits.release(steps)

    def open(self) -> None:
        """Let every step end from now on, and the one that waits."""
        self.is_open = True
        self.release()


def pieces(decoder: Decoder, dtype: torch.dtype = torch.float32) -> Iterator[Piece]:
    """Weights as the loader hands them over, each whole."""
    for name, weight in decoder.state_dict().items():
        yield Piece(name, tuple(weight.shape), 0, weight.to(dtype))


def toy_runner(decoder: Decoder, *, num_slots: int = 4) -> Runner:
    """A decoder with a cache in its dtype."""
    cache = SlotCache(
        decoder.config,
        num_slots=num_slots,
        max_tokens=decoder.config.max_position_embeddings,
        dtype=decoder.lm_head.weight.dtype,
        device=torch.device("cpu"),
    )
    return Runner(decoder, cache)


def toy_engine(
    decoder: Decoder | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    num_slots: int = 4,
    max_step_tokens: int = 16,
    **options: bool,
) -> Engine:
    """An engine in the decoder's dtype; a toy decoder in float64 where none is given."""
    decoder = toy_decoder(0).double() if decoder is None else decoder
    runner = toy_runner(decoder, num_slots=num_slots)
    return Engine(runner, tokenizer or toy_tokenizer(), max_step_tokens=max_step_tokens, **options)


def overlapped_engine(
    decoder: Decoder | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    num_slots: int = 4,
    max_step_tokens: int = 16,
    **options: bool,
) -> Engine:
    """The engine of a GPU over PyTorch's operators on a CPU, where nothing is recorded.

    A decoder that the fused kernels do not know gets a plain engine, as it does on a GPU.
    """
    decoder = toy_decoder(0).double() if decoder is None else decoder
    if not decoder.config.is_llama:
        return toy_engine(
            decoder,
            tokenizer=tokenizer,
            num_slots=num_slots,
            max_step_tokens=max_step_tokens,
            **options,
        )
    runner = gpu_runner(decoder, num_slots=num_slots, max_step_tokens=max_step_tokens)
    return OverlappedEngine(
        runner, tokenizer or toy_tokenizer(), max_step_tokens=max_step_tokens, **options
    )


def gpu_runner(
    decoder: Decoder,
    *,
    num_slots: int = 4,
    max_step_tokens: int = 16,
    kernels: StepKernels | None = None,
    sampler: Sampler | None = None,
) -> GpuRunner:
    """A decoder in a set of weight buffers of its own; PyTorch's operators compute by default."""
    config, weight = decoder.config, decoder.lm_head.weight
    cache = GpuCache(
        config,
        num_slots=num_slots,
        max_tokens=config.max_position_embeddings,
        dtype=weight.dtype,
        device=weight.device,
    )
    weight_set = WeightSet(
        config,
        cache.tensors,
        num_slots=num_slots,
        max_step_tokens=max_step_tokens,
        kernels=kernels or PlainKernels(),
        sampler=sampler or PlainSampler(),
        record=lambda compute: compute,
    )
    fill(weight_set.weights, config, pieces(decoder, weight.dtype))
    return GpuRunner(weight_set, cache, SlotPool(num_slots))


def toy_served(engine: Engine | None = None, *, step: int = 1) -> ServedModel:
    """A model as the loader would hand it over."""
    engine = engine or toy_engine()
    return ServedModel(
        checkpoint=Checkpoint(run="toy", step=step, fingerprint=f"{step:064x}", created_at=0.0),
        tokenizer=toy_tokenizer(),
        engine=engine,
        max_model_tokens=toy_config().max_position_embeddings,
        dtype="float64",
        num_slots=engine._runner.cache.num_slots,
        device="cpu",
        load_s=0.1,
    )


def gated_engine(*, seed: int = 0, **engine_options: int) -> tuple[GatedDecoder, Engine]:
    """A decoder that waits for permits, one a token, with the weights of ``toy_decoder(seed)``."""
    decoder = GatedDecoder(toy_config())
    initialize(decoder, seed)
    return decoder, toy_engine(decoder.double().eval(), speculation=False, **engine_options)


def generation_request(
    request_id: str = "a",
    prompt_ids: tuple[int, ...] = (5, 6, 7),
    *,
    max_new_tokens: int = 4,
    stop: tuple[str, ...] = (),
    deadline: float | None = None,
    **sampling: Any,
) -> GenerationRequest:
    """A request, greedy unless ``sampling`` says otherwise."""
    return GenerationRequest(
        request_id=request_id,
        prompt_ids=prompt_ids,
        max_new_tokens=max_new_tokens,
        sampling=SamplingParams(**{"temperature": 0.0, **sampling}),
        stop=stop,
        deadline=deadline,
    )


def reference_ids(
    decoder: Decoder, request: GenerationRequest, eos_token_ids: tuple[int, ...] = (0,)
) -> list[int]:
    """What the slow reference generator answers."""
    return list(
        generate(
            decoder,
            request.prompt_ids,
            request.sampling,
            max_new_tokens=request.max_new_tokens,
            eos_token_ids=eos_token_ids,
        )
    )

"""An exported model as the tool that it is for has opened it, and what can then be asked of it."""

import contextlib
import dataclasses
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm.generate import generate
from lm.model.decoder import Decoder
from lm.sampling import SamplingParams


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A model in the hands of a tool."""

    tool: str
    logits: Callable[[Tensor], Tensor]
    """Token ids, int64 [1, T], to logits [1, T, V]."""
    generate: Callable[[Sequence[int], int], int] | None
    """Tokens made greedily after a prompt, at most so many; ``None`` where speed says nothing."""


def in_nestling(decoder: Decoder) -> Opened:
    """Our own decoder, by its slow generator."""

    def made(prompt_ids: Sequence[int], limit: int) -> int:
        params = SamplingParams(temperature=0.0)
        return sum(1 for _ in generate(decoder, prompt_ids, params, max_new_tokens=limit))

    decoder.eval()
    return Opened(tool="nestling", logits=decoder, generate=made)


def in_transformers(directory: Path) -> Opened:
    """``AutoModelForCausalLM`` and ``AutoTokenizer`` over a directory, nothing downloaded."""
    transformers = _import("transformers")
    with quietly():
        transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype="auto", local_files_only=True
        ).eval()

    def made(prompt_ids: Sequence[int], limit: int) -> int:
        prompt = torch.tensor([list(prompt_ids)])
        with quietly():
            row = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                min_new_tokens=limit,
                max_new_tokens=limit,
                do_sample=False,
                pad_token_id=0,
            )
        return int(row.shape[1]) - len(prompt_ids)

    return Opened(tool="transformers", logits=lambda ids: model(ids).logits, generate=made)


def in_llama_cpp(path: Path) -> Opened | None:
    """llama.cpp through llama-cpp-python; ``None`` where that is not installed."""
    if importlib.util.find_spec("llama_cpp") is None:
        return None
    from llama_cpp import Llama

    model = Llama(
        str(path), n_ctx=0, logits_all=True, verbose=False, n_threads=torch.get_num_threads()
    )

    def logits(token_ids: Tensor) -> Tensor:
        model.reset()
        model.eval(token_ids[0].tolist())
        return torch.from_numpy(model.scores[: token_ids.shape[1]].copy())[None]

    def made(prompt_ids: Sequence[int], limit: int) -> int:
        model.reset()
        stream = model.generate(list(prompt_ids), temp=0.0)
        return sum(1 for _ in zip(range(limit), stream, strict=False))

    return Opened(tool="llama.cpp", logits=logits, generate=made)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the progress bars, warnings and log lines of libraries."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    transformers = _import("transformers")
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"needs {error.name}; run: pip install 'nestling[import]'") from error

"""Matrices in int8, and everything else as it was: what PyTorch has for it, today and before.

A Llama shape goes through torchao, which took the place of ``torch.ao.quantization``: weights in
int8 with a scale for each row, activations quantised as they come, in a directory that
``AutoModelForCausalLM`` opens. Any other shape is written as 001's notebook does it, by
``quantize_dynamic`` and ``torch.save`` of ``{"state_dict"}``; that API is deprecated, yet the only
one whose files that notebook's readers (and our import) know.
"""

import importlib.util
import json
import tempfile
from pathlib import Path

import torch
from torch import nn

from lm.huggingface.config import to_hf
from lm.model.decoder import Decoder, decoder_from_weights
from lm.volume.content import CONFIG_FILE, WEIGHTS_FILE
from trainer.convert.exporting.directory import write_directory
from trainer.convert.exporting.reader import Opened, in_nestling, in_transformers, quietly
from trainer.convert.exporting.source import Source

QUANTIZED_FILE = "quantized.ckpt"
REST = torch.bfloat16
"""Dtype of embeddings and norms beside torchao's matrices."""


def file_name(source: Source) -> str:
    """Where the weights are."""
    return WEIGHTS_FILE if source.config.is_llama else QUANTIZED_FILE


def write_int8(source: Source, directory: Path) -> None:
    """Write the int8 model; raises ``ValueError`` if torchao is needed and not installed."""
    if source.config.is_llama:
        _write_torchao(source, directory)
        return
    with quietly():
        state = quantized(source).state_dict()
    torch.save({"state_dict": state}, directory / QUANTIZED_FILE)
    (directory / CONFIG_FILE).write_text(json.dumps(to_hf(source.config), indent=2), "utf-8")
    source.tokenizer.save(directory)


def read_int8(source: Source, directory: Path) -> Opened:
    """Open what ``write_int8`` wrote."""
    if source.config.is_llama:
        return in_transformers(directory)
    with quietly():
        decoder = quantized(source)
        content = torch.load(directory / QUANTIZED_FILE, weights_only=True)
        decoder.load_state_dict(content["state_dict"])
    return in_nestling(decoder)


def quantized(source: Source) -> Decoder:
    """Our decoder with every linear layer as ``quantize_dynamic`` makes it."""
    weights = {name: tensor.float() for name, tensor in source.weights.items()}
    decoder = decoder_from_weights(source.config, weights).eval()
    ours: Decoder = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
        decoder, {nn.Linear}, dtype=torch.qint8
    )
    return ours


def _write_torchao(source: Source, directory: Path) -> None:
    if importlib.util.find_spec("torchao") is None:
        raise ValueError("int8 of a Llama shape needs torchao; run: pip install 'nestling[export]'")
    with quietly(), tempfile.TemporaryDirectory() as plain:
        import transformers
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig

        write_directory(source, Path(plain), REST)
        recipe = transformers.TorchAoConfig(Int8DynamicActivationInt8WeightConfig())
        model = transformers.AutoModelForCausalLM.from_pretrained(
            plain, quantization_config=recipe, dtype=REST, local_files_only=True
        )
        model.save_pretrained(directory)
    source.tokenizer.save(directory)

"""The formats by name: how each is written, and read back with the tool that it is for."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from lm.model.config import ModelConfig
from lm.model.decoder import Decoder, decoder_from_weights
from lm.volume.content import WEIGHTS_FILE
from trainer.convert.exporting import gguf, int8, torch_file
from trainer.convert.exporting.directory import has_class, refuse_without_class, write_directory
from trainer.convert.exporting.reader import Opened, in_llama_cpp, in_nestling, in_transformers
from trainer.convert.exporting.source import Source
from trainer.convert.importing import Described, Foreign, read_source

Write = Callable[[Source, Path], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """One way out of the volume."""

    description: str
    refuse: Callable[[ModelConfig], None]
    """Raises ``ValueError`` for an architecture that the format cannot hold."""
    write: Write
    read: Callable[[Source, Path], Opened]
    weights_file: Callable[[Source], str]


def before(source: Source) -> Opened:
    """The step itself in float32, in the tool that most formats are read with."""
    if not has_class(source.config):
        return in_nestling(_decoder(source))
    with tempfile.TemporaryDirectory() as plain:
        write_directory(source, Path(plain), torch.float32)
        return in_transformers(Path(plain))


def _take_any(config: ModelConfig) -> None:
    """Every architecture."""
    del config


def _directory(dtype: torch.dtype, description: str, *, needs_class: bool) -> Format:
    def read(source: Source, directory: Path) -> Opened:
        if has_class(source.config):
            return in_transformers(directory)
        return in_nestling(_foreign_decoder(read_source(str(directory))))

    return Format(
        description=description,
        refuse=refuse_without_class if needs_class else _take_any,
        write=functools.partial(write_directory, dtype=dtype),
        read=read,
        weights_file=lambda _: WEIGHTS_FILE,
    )


def _gguf(quantization: str, description: str) -> Format:
    def path(source: Source, directory: Path) -> Path:
        return directory / gguf.file_name(source, quantization)

    def read(source: Source, directory: Path) -> Opened:
        file = path(source, directory)
        foreign = read_source(str(file))  # transformers' reader, whatever else is there
        opened = in_llama_cpp(file)
        if opened is not None:
            return opened
        decoder = _foreign_decoder(foreign)
        return dataclasses.replace(in_nestling(decoder), tool="transformers", generate=None)

    return Format(
        description=description,
        refuse=gguf.refuse_other_shapes,
        write=lambda source, directory: gguf.write_gguf(
            source, path(source, directory), quantization
        ),
        read=read,
        weights_file=lambda source: gguf.file_name(source, quantization),
    )


def _read_torch(source: Source, directory: Path) -> Opened:
    described = Described(config=source.config, tokenizer=source.tokenizer)
    path = directory / torch_file.file_name(source)
    return in_nestling(_foreign_decoder(read_source(str(path), described)))


def _foreign_decoder(foreign: Foreign) -> Decoder:
    return decoder_from_weights(foreign.config, foreign.to(torch.float32).weights)


def _decoder(source: Source) -> Decoder:
    return decoder_from_weights(source.config, {n: w.float() for n, w in source.weights.items()})


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "hf": _directory(
            torch.float32,
            "a model directory for transformers and whatever reads its files",
            needs_class=True,
        ),
        "fp16": _directory(torch.float16, "the same in float16", needs_class=False),
        "bf16": _directory(torch.bfloat16, "the same in bfloat16", needs_class=False),
        "torch": Format(
            description="the dict of a training script, for torch.load",
            refuse=_take_any,
            write=torch_file.write_torch,
            read=_read_torch,
            weights_file=torch_file.file_name,
        ),
        "int8": Format(
            description="matrices in int8: torchao's, or quantize_dynamic's for other shapes",
            refuse=_take_any,
            write=int8.write_int8,
            read=int8.read_int8,
            weights_file=int8.file_name,
        ),
        "gguf": _gguf("F16", "a file for llama.cpp, in float16"),
        "gguf-q8": _gguf("Q8_0", "a file for llama.cpp, in int8 by blocks of 32"),
    }
)

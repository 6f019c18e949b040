"""A GGUF file, dequantised to float32 through transformers' own reader.

transformers undoes llama.cpp's reordering of the query and key rows and reads sizes, rope_theta
and the chat template from the file. It cuts text before BPE as GPT-2 does wherever it does not know
``tokenizer.ggml.pre``, SmolLM2's among them, whose ids then differ after runs of spaces: that is
put right here for the kinds that we know, and any other is refused.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from lm.huggingface.config import from_hf
from lm.huggingface.model import Foreign
from lm.model.config import ModelConfig
from lm.text.tokenizer import Tokenizer
from lm.trial import try_out
from trainer.convert.importing import gguf_facts as facts

SUFFIX = ".gguf"
MAX_REASON = 400
"""Characters of the library's reason why a file cannot be read."""
_DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r"})
"""Kinds that split every digit and then as GPT-2 does (llama.cpp, ``llm_tokenizer_bpe``)."""
_AS_GPT2 = frozenset({"gpt-2", "default"})


def read_gguf(path: Path) -> Foreign:
    """Read a model; raises ``ValueError`` by name for what is missing or not supported."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        import accelerate as _accelerate  # noqa: F401 - transformers fails late without it
        import transformers
        from gguf import GGUFReader
    except ImportError as error:
        raise ValueError(f"{path}: needs {error.name}; run: pip install .[import]") from error
    logging: Any = transformers.utils.logging  # untyped there
    logging.disable_progress_bar()
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    directory = os.fspath(path.parent)
    try:
        reader = GGUFReader(path)
        facts.refuse_split(reader)
        config = transformers.AutoConfig.from_pretrained(directory, **where)
        model_config = from_hf(_plain(config.to_dict()))
        facts.refuse_not_understood(reader, model_config)
        facts.refuse_unknown_ids(reader)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **where)
        model = transformers.LlamaForCausalLM.from_pretrained(directory, dtype="float32", **where)
        ours = _tokenizer(reader, tokenizer, model_config)
        try_out(ours)
        return Foreign.checked(model_config, model.state_dict(), ours)
    except Exception as error:  # the file's bytes decide which
        reason = " ".join(str(error).split())[:MAX_REASON]
        raise ValueError(f"{path}: not a model that can be read: {reason}") from error


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The config of the dequantised model."""
    values.pop("quantization_config", None)
    # The file holds 1e-5 as float32; its shortest decimal is what was meant.
    values["rms_norm_eps"] = float(str(np.float32(values.get("rms_norm_eps", 1e-6))))
    return values


def _tokenizer(reader: Any, tokenizer: Any, config: ModelConfig) -> Tokenizer:
    """Their tokenizer as ours, with what the file says of it."""
    backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        _set_cutting(backend, facts.value_of(reader, "tokenizer.ggml.pre"))
    ends, bos = facts.end_ids(reader), facts.value_of(reader, "tokenizer.ggml.bos_token_id")
    facts.prefix_space(reader, backend)
    facts.surround(reader, backend, bos, ends[0])
    template = facts.value_of(reader, "tokenizer.chat_template")
    return Tokenizer(
        backend,
        bos_token_id=bos,
        eos_token_ids=ends,
        chat_template=template if isinstance(template, str) else None,
        kept=facts.kept_facts(reader, backend, config),
        generation=facts.sampling_defaults(reader),
    )


def _set_cutting(backend: Backend, kind: str | None) -> None:
    """Give a byte-level BPE its pre-tokenizer; raises ``ValueError`` for an unknown kind."""
    assert isinstance(backend.model, models.BPE), backend.model
    if kind in _DIGITS_APART:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    elif kind is not None and kind not in _AS_GPT2:
        raise ValueError(f"tokenizer.ggml.pre={kind!r} is not supported")

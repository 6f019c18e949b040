"""Weights from elsewhere, brought into the volume as a step.

``source`` recognises what it was given; ``lm.huggingface`` reads Hugging Face directories, ``gguf``
and ``checkpoint`` one format each, all into a ``Foreign`` model; ``publishing`` writes that as a
step that holds no training state. A ``checkpoint`` is opened by ``lm.huggingface.torch_save``,
freed of int8 by ``quantized``, and its weights are put into our terms by ``names``, ``layouts``,
``rotary``.
"""

from lm.huggingface.model import Foreign
from trainer.convert.importing.checkpoint import Described
from trainer.convert.importing.publishing import import_model
from trainer.convert.importing.source import read_source

__all__ = ["Described", "Foreign", "import_model", "read_source"]

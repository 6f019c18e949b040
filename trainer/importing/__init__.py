"""Weights from elsewhere, brought into the volume as a step.

``source`` recognises what it was given, ``directory`` and ``gguf`` read one format each into a
``Foreign`` model, and ``publishing`` writes that as a step that holds no training state.
"""

from trainer.importing.foreign import Foreign
from trainer.importing.publishing import import_model
from trainer.importing.source import read_source

__all__ = ["Foreign", "import_model", "read_source"]

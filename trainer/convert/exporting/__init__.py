"""A step of the volume as files that other tools open.

``source`` finds and reads the step; ``directory``, ``gpt2``, ``torch_file``, ``int8`` and ``gguf``
write one format each, and ``formats`` lists them; ``opened`` is what was written in the hands of
its tool, ``measure`` compares it with the step, ``card`` says it all in words, and ``export`` does
these in order.
"""

from trainer.convert.exporting.export import export
from trainer.convert.exporting.source import find_step

__all__ = ["export", "find_step"]

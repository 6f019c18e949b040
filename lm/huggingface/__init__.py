"""Models made elsewhere: a Hugging Face directory, here or on the Hub, in our terms.

Both processes read them: the trainer's import, and a service that serves one by itself. Files of
other kinds (GGUF, ``torch.save``) are the trainer's business (``trainer.convert.importing``).
"""

from lm.huggingface import hub
from lm.huggingface.directory import fetch, read_directory
from lm.huggingface.model import Foreign

__all__ = ["Foreign", "fetch", "hub", "read_directory"]

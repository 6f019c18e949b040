"""A tokenizer of one's own: byte-level BPE learnt from training text.

Any bytes have ids, so no text is out of vocabulary, and decoding gives back exactly the text that
was encoded. Digits are tokens of their own, as in SmolLM2's tokenizer. Not here: where else a
recipe's tokenizer may come from (``trainer.data.tokenizer_source``).
"""

from collections.abc import Iterable

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from lm.text.tokenizer import Tokenizer
from trainer.data.pieces import pieces

END_OF_TEXT = "<|endoftext|>"
_PIECE_CHARACTERS = 1 << 13
"""The library keeps some hundred pieces at once, each at over a hundred bytes a character."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE; a text too small for the vocabulary gives a smaller one.

    Args:
        texts: training documents, and nothing that is held out.
        vocab_size: ids in all: the 256 bytes, the end of text (id 0), and merges.

    """
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    parts = (piece for text in texts for piece in pieces(text, _PIECE_CHARACTERS))
    backend.train_from_iterator(parts, trainer)
    assert backend.token_to_id(END_OF_TEXT) == 0
    return Tokenizer(backend, bos_token_id=0, eos_token_ids=[0])

"""Ids that no structure may take: rows beyond the tokenizer, and ends that are ordinary text."""

import json
import re
from typing import Any

import jsonschema
import pytest
import torch
from serving import toy_engine
from serving.structures import answer, ask, closed
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from toys import END_OF_TEXT, toy_config, toy_decoder, toy_tokenizer

from lm.text.tokenizer import Tokenizer
from service.engine.request import FinishReason
from service.engine.structure.constraint import regex_grammar, schema_grammar
from service.engine.structure.grammars import Grammars

VALUE = "a rather long constant value"
CONSTANT = closed({"name": {"type": "string"}, "kind": {"const": VALUE}})
DIFFERENT: dict[str, Any] = {
    "type": "array",
    "items": {"enum": [VALUE, "the question", "the thousand"]},
    "uniqueItems": True,
    "minItems": 2,
}
TEXT = (
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the "
    "slings and arrows of outrageous fortune, or to take arms against a sea of troubles, and by "
    "opposing end them. To die, to sleep, no more; and by a sleep to say we end the heart-ache "
    "and the thousand natural shocks that flesh is heir to: 'tis a consummation devoutly to be "
    "wished.\n"
)
PADDED = 11
PERCENT, AND = 5, 6
"""Ids of the toy tokenizer."""


def merging_tokenizer() -> Tokenizer:
    """Its merges spell less than all of a constant, so that one way alone is the known closing."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=501,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    return Tokenizer(backend, bos_token_id=0, eos_token_ids=[0])


@pytest.mark.parametrize("schema", [CONSTANT, DIFFERENT], ids=["constant", "different"])
def test_rows_beyond_the_tokenizer_are_never_taken(schema: dict[str, Any]) -> None:
    tokenizer = merging_tokenizer()
    vocab_size = tokenizer.backend.get_vocab_size() + PADDED
    engine = toy_engine(
        toy_decoder(0, toy_config(vocab_size=vocab_size)).double(), tokenizer=tokenizer
    )
    grammar = schema_grammar(schema)
    for seed in range(25):
        text, reason, _ = answer(engine, ask(grammar, 60, temperature=1.0, seed=seed))
        jsonschema.validate(json.loads(text), schema)
        assert reason is FinishReason.STOP


def test_the_known_closing_is_taken_where_no_logit_is_left() -> None:
    tokenizer = toy_tokenizer()
    constraint = Grammars(tokenizer).begin(regex_grammar("(yes|no)"), 2)
    logits = torch.full((300 + PADDED,), -torch.inf)
    draws: list[int] = []

    def draw(row: torch.Tensor) -> int:
        """The last id, as a draw from nothing gives."""
        draws.append(int(row.numel()) - 1)
        return draws[-1]

    token_id = constraint.choose(logits, draw)
    assert tokenizer.decode([token_id]) == "n"
    assert len(draws) == 1


@pytest.mark.parametrize("schema", [CONSTANT, DIFFERENT], ids=["constant", "different"])
@pytest.mark.parametrize("ends", [(PERCENT, AND), (0, PERCENT, AND)])
def test_an_end_that_is_text_ends_whole_answers_alone(
    ends: tuple[int, ...], schema: dict[str, Any]
) -> None:
    tokenizer = Tokenizer(toy_tokenizer().backend, bos_token_id=0, eos_token_ids=ends)
    decoder = toy_decoder(0).double()
    engine = toy_engine(decoder, tokenizer=tokenizer)
    grammar = schema_grammar(schema)
    for seed in range(6):
        asked = ask(
            grammar, 100, temperature=1.5, seed=seed, logit_bias=((PERCENT, 6.0), (AND, 6.0))
        )
        text, reason, _ = answer(engine, asked)
        jsonschema.validate(json.loads(text), schema)
        assert reason is FinishReason.STOP
        assert not re.search("[%&]", text)


def test_ends_that_are_text_may_follow_what_is_whole() -> None:
    tokenizer = Tokenizer(toy_tokenizer().backend, bos_token_id=0, eos_token_ids=[PERCENT, AND])
    assert tokenizer.decode([PERCENT, AND]) == "%&"
    constraint = Grammars(tokenizer).begin(regex_grammar("[a%&]+"), 9)
    first, second = torch.zeros(300), torch.zeros(300)
    constraint.restrict(first)
    assert first[[PERCENT, AND]].tolist() == [-torch.inf] * 2
    (a,) = [one for one in tokenizer.encode("a") if one]
    assert first[a] == 0
    assert constraint.accept(a)
    constraint.restrict(second)
    assert second[[PERCENT, AND]].tolist() == [0.0] * 2
    assert constraint.accept(AND)
    assert constraint.is_complete

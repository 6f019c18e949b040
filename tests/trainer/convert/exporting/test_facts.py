"""Facts that decide no weights go through import, export and import again, in every format."""

from pathlib import Path

import pytest
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend
from toys import publish_toy, toy_tokenizer

from lm.text.tokenizer import Tokenizer
from trainer.convert.exporting import export
from trainer.convert.importing import import_model, read_source

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

SAMPLING = {"temperature": 0.6, "top_k": 40, "top_p": 0.95, "min_p": 0.12345679}


def tokenizer() -> Tokenizer:
    backend = Backend.from_str(toy_tokenizer().backend.to_str())
    names = [str(backend.id_to_token(token_id)) for token_id in (3, 4, 5)]
    backend.add_special_tokens(names)
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return Tokenizer(
        backend,
        bos_token_id=0,
        eos_token_ids=[0, 3],
        kept={"pad_token": names[1], "unk_token": names[2], "model_max_length": 256},
        generation=SAMPLING,
    )


@pytest.mark.parametrize("format_name", ["hf", "bf16", "gguf"])
def test_what_a_model_says_of_itself_comes_back(format_name: str, tmp_path: Path) -> None:
    step = publish_toy(tmp_path / "volume", "toy", 0, tokenizer=tokenizer())
    export(step, format_name, tmp_path / "out", max_tokens=0)
    made = tmp_path / "out"
    source = str(next(made.glob("*.gguf"))) if format_name == "gguf" else str(made)
    again = import_model(source, tmp_path / "second", run="again")
    for back in (read_source(source).tokenizer, Tokenizer.load(again.path)):
        assert back.eos_token_ids == (0, 3)
        assert back.bos_token_id == 0
        assert back.kept == tokenizer().kept
        assert back.generation == SAMPLING
        assert back.encode("To be") == tokenizer().encode("To be")
        assert back.encode("To be")[0] == 0


def test_gguf_refuses_more_end_tokens_than_it_holds(tmp_path: Path) -> None:
    many = Tokenizer(toy_tokenizer().backend, bos_token_id=0, eos_token_ids=[0, 3, 4, 5])
    step = publish_toy(tmp_path / "volume", "toy", 0, tokenizer=many)
    with pytest.raises(ValueError, match=r"gguf: the format holds 3 end tokens"):
        export(step, "gguf", tmp_path / "out", max_tokens=0)


def test_gguf_refuses_added_tokens_that_take_the_space_beside_them(tmp_path: Path) -> None:
    backend = Backend.from_str(toy_tokenizer().backend.to_str())
    backend.add_special_tokens([AddedToken(str(backend.id_to_token(3)), rstrip=True)])
    taking = Tokenizer(backend, bos_token_id=0, eos_token_ids=[0])
    step = publish_toy(tmp_path / "volume", "toy", 0, tokenizer=taking)
    with pytest.raises(ValueError, match="takes the space beside it"):
        export(step, "gguf", tmp_path / "out", max_tokens=0)

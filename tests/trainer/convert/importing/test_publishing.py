from pathlib import Path

import pytest
import torch

from lm.model.decoder import Decoder
from lm.text.tokenizer import Tokenizer
from lm.volume import load_model_config, load_weights, newest_step
from trainer.convert.importing import import_model
from trainer.convert.importing.__main__ import main
from trainer.convert.importing.publishing import Dtype


def test_a_model_becomes_a_step_that_holds_weights_alone(
    tmp_path: Path, model_dir: Path, decoder: Decoder, tokenizer: Tokenizer
) -> None:
    step = import_model(str(model_dir), tmp_path / "volume")
    assert step.name == "Mine-1.5@0"
    assert not step.manifest.details.resumable
    assert step.manifest.details.tokenizer_fingerprint == tokenizer.fingerprint
    assert load_model_config(step).num_parameters == decoder.config.num_parameters
    weights = load_weights(step)
    assert weights.keys() == dict(decoder.named_parameters()).keys()
    assert all(torch.equal(weights[name], w) for name, w in decoder.named_parameters())
    assert Tokenizer.load(step.path).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        ("source", torch.float32),
    ],
)
def test_weights_are_written_in_the_dtype_that_is_asked_for(
    tmp_path: Path, model_dir: Path, dtype: Dtype, expected: torch.dtype
) -> None:
    step = import_model(str(model_dir), tmp_path / "volume", dtype=dtype)
    assert {weight.dtype for weight in load_weights(step).values()} == {expected}
    config = (step.path / "config.json").read_text("utf-8")
    assert f'"dtype": "{str(expected).removeprefix("torch.")}"' in config


def test_a_bfloat16_import_comes_back_as_it_was(tmp_path: Path, model_dir: Path) -> None:
    volume = tmp_path / "volume"
    half = import_model(str(model_dir), volume, run="half", dtype="bfloat16")
    kept = import_model(str(half.path), volume, run="kept", dtype="source")
    wide = import_model(str(half.path), volume, run="wide")
    first, second, third = (load_weights(step) for step in (half, kept, wide))
    for name, weight in first.items():
        assert torch.equal(second[name], weight)
        assert second[name].dtype == torch.bfloat16
        assert torch.equal(third[name], weight.float())


def test_importing_again_does_nothing(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = import_model(str(model_dir), tmp_path / "volume", run="r", step=5)
    monkeypatch.setattr("trainer.convert.importing.publishing.read_source", None)
    assert import_model(str(model_dir), tmp_path / "volume", run="r", step=5) == first


def test_a_step_of_another_source_is_not_replaced(tmp_path: Path, model_dir: Path) -> None:
    volume = tmp_path / "volume"
    import_model(str(model_dir), volume, run="r")
    with pytest.raises(ValueError, match="is there already; choose another --run or --step"):
        import_model(str(model_dir), volume, run="r", dtype="bfloat16")
    import_model(str(model_dir), volume, run="r", step=1, dtype="bfloat16")
    newest = newest_step(volume / "r")
    assert newest is not None
    assert newest.number == 1


@pytest.mark.parametrize("run", ["", ".hidden", "a/b", "..", "a b", "a\nb", "a\0", "x" * 101])
def test_a_run_is_made_by_the_rule_of_names(tmp_path: Path, model_dir: Path, run: str) -> None:
    with pytest.raises(ValueError, match="is no name of a run"):
        import_model(str(model_dir), tmp_path / "volume", run=run)
    assert not (tmp_path / "volume").exists()
    with pytest.raises(ValueError, match="must not be negative"):
        import_model(str(model_dir), tmp_path, step=-1)


def test_what_cannot_be_read_leaves_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a directory"):
        import_model(str(tmp_path / "absent"), tmp_path / "volume", run="r")
    assert not (tmp_path / "volume").exists()


def test_the_command_prints_where_the_step_is(
    tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = tmp_path / "volume"
    assert main([str(model_dir), "--volume", str(volume), "--run", "r", "--step", "3"]) == 0
    assert capsys.readouterr().out.startswith(f"{volume / 'r' / 'step-00000003'}: r@3, ")

import functools
from io import StringIO

import pytest
import torch
from rich.console import Console
from toy_run import toy_recipe

from trainer.__main__ import main
from trainer.fit import Tried, doubled, table_of, try_micro_batch
from trainer.step.compiled import compile_blocks, compiled_batch_loss
from trainer.step.muon import orthogonalize
from trainer.step.precision import Precision

CPU = torch.device("cpu")


def test_sizes_double_until_one_does_not_fit() -> None:
    asked: list[int] = []

    def attempt(rows: int) -> Tried | None:
        asked.append(rows)
        return Tried(rows, 0.5, rows << 30) if rows <= 4 else None

    tries = list(doubled(attempt))
    assert asked == [1, 2, 4, 8]
    assert [tried.micro_batch for tried in tries] == [1, 2, 4]
    console = Console(file=StringIO(), width=120)
    console.print(table_of(toy_recipe(), tries, 16 << 30))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[2].split() == ["2", "32", "2.0", "GiB", "12%", "64", "the", "recipe's"]
    assert "the largest that fits" in lines[3]


def test_a_size_is_tried_by_training(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = try_micro_batch(toy_recipe(), CPU, 3, "float32", is_compiled=False)
    assert tried is not None
    assert (tried.micro_batch, tried.peak_bytes) == (3, 0)
    assert tried.seconds > 0

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("trainer.fit.batch_loss", out_of_memory)
    assert try_micro_batch(toy_recipe(), CPU, 3, "float32", is_compiled=False) is None


@pytest.mark.filterwarnings("default")
def test_more_sizes_are_compiled_than_the_compiler_takes_of_one_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiles = functools.partial(compile_blocks, backend="aot_eager")
    monkeypatch.setattr("trainer.fit.compile_blocks", compiles)
    monkeypatch.setattr("trainer.fit.compiled_batch_loss", lambda: compiled_batch_loss("aot_eager"))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    for rows in range(1, 5):
        assert try_micro_batch(toy_recipe(), CPU, rows, "float32", is_compiled=True) is not None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_muon_is_tried_in_the_dtype_that_training_has(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()

    def recorded(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        seen.add(dtype)
        return orthogonalize(matrices, dtype)

    monkeypatch.setattr("trainer.step.muon.orthogonalize", recorded)
    recipe = toy_recipe("optimizer.name=muon")
    assert try_micro_batch(recipe, CPU, 2, precision, is_compiled=False) is not None
    assert seen == {getattr(torch, precision)}


def test_on_a_cpu_it_says_that_memory_is_no_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "tiny", "--device", "cpu"]) == 0
    assert "On a CPU memory does not limit" in capsys.readouterr().out

"""What is compiled computes the same, once for all blocks, and nothing else ever compiles."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from toy_run import StopAtPoll, assert_equal_runs, journal_of, toy_recipe, train_toy
from toys import toy_config, toy_decoder

from lm.model.decoder import Decoder
from trainer.run import assemble as run
from trainer.run.loop import Ending
from trainer.step import compiled
from trainer.step.compiled import (
    CACHE_VARIABLE,
    compile_blocks,
    compiled_batch_loss,
    keep_compiled_code,
    why_not_compiled,
)
from trainer.step.fused.recompute import recompute_activations
from trainer.step.loss import IGNORED, batch_loss

# The compiler looks at tensors in ways that PyTorch itself warns of, and hides.
pytestmark = pytest.mark.filterwarnings("default")

FAST = "aot_eager"
"""Traces and differentiates as inductor's backend does, and generates no code."""
GRAPHS = 2
"""A block and the head's loss."""


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def gradients(decoder: Decoder, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    found = {name: p.grad for name, p in decoder.named_parameters() if p.grad is not None}
    decoder.zero_grad()
    return found


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 11},
        {"bias": True, "positions": "learned", "norm": "layernorm", "mlp": "gelu", "dropout": 0.0},
    ],
)
def test_loss_and_gradients_are_those_of_the_plain_decoder(
    changes: dict[str, object], recomputes: bool
) -> None:
    plain, ours = (toy_decoder(config=toy_config(**changes)).train() for _ in range(2))
    compile_blocks(ours, FAST)
    if recomputes:
        recompute_activations(ours)
    loss_of = compiled_batch_loss(FAST)
    for seed in range(2):
        token_ids = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(seed))
        inputs, targets = token_ids[:, :-1].contiguous(), token_ids[:, 1:].contiguous()
        targets[0, -1] = IGNORED
        losses = batch_loss(plain, inputs, targets), loss_of(ours, inputs, targets)
        torch.testing.assert_close(*(loss.detach() for loss in losses))
        expected, found = gradients(plain, losses[0]), gradients(ours, losses[1])
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 1e-5 * (gradient.norm() + 1), name
    assert counters["stats"]["unique_graphs"] == GRAPHS
    assert not counters["graph_break"]


def test_without_gradients_nothing_is_compiled() -> None:
    decoder = toy_decoder()
    expected = decoder(torch.arange(9)[None]).detach()
    compile_blocks(decoder, FAST)
    with torch.no_grad():
        for length in range(1, 10):
            found = decoder(torch.arange(length)[None])
    assert torch.equal(found, expected)
    assert not counters["stats"]["unique_graphs"]


def with_fast_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "compile_blocks", functools.partial(compile_blocks, backend=FAST))
    monkeypatch.setattr(run, "compiled_batch_loss", lambda: compiled_batch_loss(FAST))


@pytest.mark.parametrize("reads_back", [True, False])
def test_a_compiled_run_compiles_once_and_resumes_bit_for_bit(
    reads_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation, samples and checkpoints lie between its steps."""
    with_fast_compiler(monkeypatch)
    recipe = toy_recipe("compile=true")
    assert train_toy(tmp_path / "whole", recipe, reads_back=reads_back) is Ending.COMPLETE
    assert counters["stats"]["unique_graphs"] == GRAPHS
    assert not counters["graph_break"]
    for polls in (13, 29, 40, 1000):
        interrupt = StopAtPoll(polls)
        train_toy(tmp_path / "pieces", recipe, interrupt=interrupt, reads_back=reads_back)
    assert_equal_runs(tmp_path / "pieces", tmp_path / "whole")
    log = (tmp_path / "whole" / "toy" / "training.log").read_text()
    assert log.index("compiling") < log.index("compiled; the first step took")


def test_accumulated_micro_batches_equal_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fast_compiler(monkeypatch)
    one = ("batch.micro_batch=4", "batch.grad_accum_steps=1")
    losses = []
    for name, batch in (("two", ()), ("one", one)):
        recipe = toy_recipe("compile=true", "model.dropout=0.0", "optimizer.name=adamw", *batch)
        train_toy(tmp_path / name, recipe, reads_back=False)
        losses.append([x["loss"] for x in journal_of(tmp_path / name) if x["kind"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_by_inductor_a_run_learns_as_the_eager_one(precision: str, tmp_path: Path) -> None:
    curves = []
    for compiles in ("true", "false"):
        recipe = toy_recipe(
            f"compile={compiles}", f"precision={precision}", "phases.0.steps=196",
            "model.dropout=0.0", "cadence.checkpoint_every=100",
        )  # fmt: skip
        train_toy(tmp_path / compiles, recipe, reads_back=False)
        lines = journal_of(tmp_path / compiles)
        curves.append([line["loss_average"] for line in lines if line["kind"] == "train"])
    assert counters["stats"]["unique_graphs"] == GRAPHS
    assert not counters["graph_break"]
    assert curves[0] == pytest.approx(curves[1], abs=0.02)
    assert curves[0][-1] < curves[0][0] - 1


def test_where_nothing_compiles_the_reason_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find\na C compiler")

    monkeypatch.setattr(compiled.torch, "compile", fails)
    assert why_not_compiled(torch.device("cpu")) == "Failed to find a C compiler"


def test_auto_compiles_on_a_gpu_alone(tmp_path: Path) -> None:
    train_toy(tmp_path, last_step=1)
    assert not counters["stats"]
    assert "compiling" not in (tmp_path / "toy" / "training.log").read_text()


def test_compiled_code_is_kept_in_the_users_cache_unless_he_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "/elsewhere")
    keep_compiled_code()
    assert os.environ[CACHE_VARIABLE] == "/elsewhere"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled_code()
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "nestling" / "inductor")
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    keep_compiled_code()
    assert CACHE_VARIABLE not in os.environ


def test_a_user_without_a_home_gets_no_directory_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    keep_compiled_code()
    assert CACHE_VARIABLE not in os.environ
    assert list(tmp_path.iterdir()) == []

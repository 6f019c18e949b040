"""A stopped and resumed run is, bit for bit, the run that was never stopped."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import (
    StopAtPoll,
    assert_equal_runs,
    journal_of,
    tensors_of,
    toy_recipe,
    train_toy,
)
from toys import publish_toy

from lm.volume import RunLock, WriterBusy, list_steps, newest_step, verify
from trainer.recipe.schema import Recipe
from trainer.report.run_journal import read_lines
from trainer.run import assemble as run
from trainer.run.loop import Ending
from trainer.step.loss import batch_loss

LONG_ROWS = (
    *("model.max_position_embeddings=512", "batch.length=512", "sources.0.max_bytes=400000"),
    *("model.hidden_size=128", "phases.0.steps=4", "phases.1.steps=2", "cadence.eval_tokens=2048"),
)
"""Rows of several blocks of attention, whose sums a GPU may take in any order."""
MICRO = ("unit=micro", "batch.grad_accum_steps=3", "phases.0.steps=10", "phases.1.steps=4")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    volume = tmp_path_factory.mktemp("uninterrupted")
    assert train_toy(volume) is Ending.COMPLETE
    return volume


@pytest.mark.parametrize("stops", [[6], [1, 2, 11], [8], [5, 5]])
def test_a_run_in_pieces_equals_a_run_in_one(
    stops: list[int], uninterrupted: Path, tmp_path: Path
) -> None:
    for stop in stops:
        assert train_toy(tmp_path, last_step=stop) is Ending.LIMIT
    assert train_toy(tmp_path) is Ending.COMPLETE
    assert_equal_runs(tmp_path, uninterrupted)


def test_a_run_that_is_read_late_resumes_bit_for_bit(tmp_path: Path) -> None:
    """As on a GPU, Muon in batches included."""
    assert train_toy(tmp_path / "whole", reads_back=False) is Ending.COMPLETE
    for polls in (11, 30, 23, 41):
        train_toy(tmp_path / "pieces", interrupt=StopAtPoll(polls), reads_back=False)
    train_toy(tmp_path / "pieces", reads_back=False)
    assert_equal_runs(tmp_path / "pieces", tmp_path / "whole")


def test_reading_late_changes_no_bit(tmp_path: Path) -> None:
    recipe = toy_recipe("optimizer.name=adamw")
    for reads_back in (True, False):
        train_toy(tmp_path / str(reads_back), recipe, reads_back=reads_back)
    assert_equal_runs(tmp_path / "False", tmp_path / "True")


@pytest.mark.parametrize("seed", range(6))
def test_a_run_interrupted_at_any_poll_equals_a_run_in_one(
    seed: int, uninterrupted: Path, tmp_path: Path
) -> None:
    """Polls are at micro-batches, evaluation batches and sampled tokens alike."""
    generator = random.Random(seed)
    for _ in range(3):
        train_toy(tmp_path, interrupt=StopAtPoll(generator.randrange(1, 60)))
    train_toy(tmp_path)
    assert_equal_runs(tmp_path, uninterrupted)


@pytest.mark.parametrize(
    "overrides",
    [
        MICRO,
        ("optimizer.name=adamw", "batch.grad_accum_steps=1"),
        ("precision=bfloat16", "phases.0.steps=4", "phases.1.steps=2"),
    ],
)
def test_every_kind_of_recipe_resumes_bit_for_bit(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    recipe = toy_recipe(*overrides)
    train_toy(tmp_path / "whole", recipe)
    polls = 17
    while (
        train_toy(tmp_path / "pieces", recipe, interrupt=StopAtPoll(polls)) is not Ending.COMPLETE
    ):
        polls += 7  # the last evaluation takes more polls than there are in one piece
    assert_equal_runs(tmp_path / "pieces", tmp_path / "whole")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="trains on a GPU")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "overrides",
    [
        MICRO,
        ("precision=bfloat16",),
        ("precision=float16",),
        ("precision=bfloat16", *LONG_ROWS),
        ("precision=bfloat16", "compile=false", *LONG_ROWS),
    ],
)
def test_a_run_on_a_gpu_resumes_bit_for_bit(overrides: tuple[str, ...], tmp_path: Path) -> None:
    recipe = toy_recipe(*overrides)
    train_toy(tmp_path / "whole", recipe, device="cuda")
    for polls in itertools.count(17, 7):
        stop = StopAtPoll(polls)
        if train_toy(tmp_path / "pieces", recipe, interrupt=stop, device="cuda") is Ending.COMPLETE:
            break
    assert_equal_runs(tmp_path / "pieces", tmp_path / "whole")


def test_what_a_killed_run_wrote_past_its_checkpoint_is_written_once(
    uninterrupted: Path, tmp_path: Path
) -> None:
    train_toy(tmp_path, last_step=7)
    newest = newest_step(tmp_path / "toy")
    assert newest is not None
    assert newest.number == 7
    newest.path.rename(tmp_path / "toy" / ".lost")  # as if killed after step 5 was published
    with (tmp_path / "toy" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 8, "lo')  # and in the middle of a line
    train_toy(tmp_path)
    assert_equal_runs(tmp_path, uninterrupted)


@pytest.mark.parametrize("name", ["model.safetensors", "training_state.safetensors"])
def test_a_step_that_rotted_is_passed_over_and_written_again(
    name: str, uninterrupted: Path, tmp_path: Path
) -> None:
    train_toy(tmp_path, last_step=7)
    rotten = tmp_path / "toy" / "step-00000007" / name
    content = bytearray(rotten.read_bytes())
    content[-1] ^= 1
    rotten.write_bytes(content)
    train_toy(tmp_path, last_step=7)
    log = (tmp_path / "toy" / "training.log").read_text()
    assert f"passed over: {rotten}: SHA-256 differs" in log
    assert "going on from step 5" in log
    verify(newest_step(tmp_path / "toy"))
    assert (tmp_path / "toy" / ".bad-step-00000007-0").is_dir()
    train_toy(tmp_path)
    assert_equal_runs(tmp_path, uninterrupted)


def test_the_gradients_of_k_micro_batches_of_b_are_those_of_one_of_k_times_b(
    tmp_path: Path,
) -> None:
    one_step = (
        "phases.0.steps=1",
        "phases.1.steps=1",
        "model.dropout=0.0",
        "optimizer.grad_clip=null",
    )
    adamw = ("optimizer.name=adamw", "phases.0.schedule.warmup_steps=0")
    for name, (micro_batch, accumulation) in {"one": (8, 1), "four": (2, 4)}.items():
        recipe = toy_recipe(
            *one_step, *adamw,
            f"batch.micro_batch={micro_batch}", f"batch.grad_accum_steps={accumulation}",
        )  # fmt: skip
        train_toy(tmp_path / name, recipe, last_step=1)
    one, four = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "four")
    for name, tensor in one.items():
        if name.endswith("exp_avg"):  # a tenth of the first step's gradient
            error = (four[name] - tensor).norm() / tensor.norm()
            assert error < 1e-6, name
    losses = [journal_of(tmp_path / name)[0]["loss"] for name in ("one", "four")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_cut_short_window_is_divided_by_its_own_tokens(tmp_path: Path) -> None:
    """Three micro-batches, then one alone: both losses are means, not sums over a third."""
    recipe = toy_recipe(*MICRO, "phases.0.steps=4")
    train_toy(tmp_path, recipe, last_step=4)
    first, second = [line for line in journal_of(tmp_path) if line["kind"] == "train"]
    assert first["tokens_seen"] == 3 * second["tokens_seen"] // 4
    assert second["loss"] == pytest.approx(first["loss"], rel=0.1)


def test_a_second_phase_says_so_and_keeps_the_moments(tmp_path: Path) -> None:
    """Two phases at the same rates are one phase; at others only the updates differ."""
    constant = ("phases.0.schedule={name: constant}", "phases.1.lr=null")
    train_toy(tmp_path / "two", toy_recipe(*constant))
    train_toy(
        tmp_path / "one", toy_recipe("phases=[{name: all, steps: 12, schedule: {name: constant}}]")
    )
    two, one = tensors_of(tmp_path / "two"), tensors_of(tmp_path / "one")
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())

    train_toy(
        tmp_path / "other", toy_recipe(*constant, "phases.1.lr=1e-3", "phases.1.weight_decay=0.5")
    )
    log = (tmp_path / "other" / "toy" / "training.log").read_text()
    assert "step 0 · phase one: constant, lr 0.003, weight decay 0.01" in log
    assert "step 8 · phase two: constant, lr 0.001, weight decay 0.5" in log
    other = tensors_of(tmp_path / "other")
    steps = {tensor.item() for name, tensor in other.items() if name.endswith("/step")}
    assert steps == {12.0}


def test_float32_products_are_those_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def loss(*arguments: Any) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return batch_loss(*arguments)

    monkeypatch.setattr(run, "batch_loss", loss)
    train_toy(tmp_path, toy_recipe("float32_matmul=high"), last_step=1)
    assert set(seen) == {"high"}
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_finished_run_says_so_and_is_left_alone(tmp_path: Path) -> None:
    train_toy(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "toy").glob("step-*/*")}
    journal = journal_of(tmp_path)
    assert train_toy(tmp_path) is Ending.COMPLETE
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "toy").glob("step-*/*")}
    assert (after, journal_of(tmp_path)) == (before, journal)
    assert "is complete at step 12" in (tmp_path / "toy" / "training.log").read_text()


def test_checkpoints_come_at_their_cadence_and_at_the_end_and_retention_prunes(
    tmp_path: Path,
) -> None:
    train_toy(tmp_path, toy_recipe("cadence.checkpoint_every=2", "retention.keep_last=2"))
    steps = list_steps(tmp_path / "toy")
    assert [step.number for step in steps][-2:] == [10, 12]
    assert len(steps) in {2, 3}  # the best may be older
    lines = read_lines(tmp_path / "toy" / "metrics.jsonl")
    taken = [line for line in lines if line["kind"] == "snapshot"]
    assert [line["step"] for line in taken] == [2, 4, 6, 8, 10, 12]
    assert all(0 < line["stall_s"] < 60 for line in taken)
    written = [line for line in lines if line["kind"] == "published"]
    assert [(line["step"], line["error"]) for line in written] == [
        (line["step"], None) for line in taken
    ]
    for step in steps:
        verify(step)
        assert step.manifest.details.resumable
        assert step.path.joinpath("training_state.json").is_file()


def test_a_checkpoint_also_comes_when_enough_time_has_passed(tmp_path: Path) -> None:
    recipe = toy_recipe(
        "cadence.checkpoint_every=1000", "cadence.checkpoint_seconds=1e-9", "retention.keep_last=20"
    )
    train_toy(tmp_path, recipe)
    assert len(list_steps(tmp_path / "toy")) > 2


def test_the_manifest_tells_progress_and_metrics(tmp_path: Path) -> None:
    train_toy(tmp_path, last_step=8)
    step = newest_step(tmp_path / "toy")
    assert step is not None
    details = step.manifest.details
    assert details.progress.micro_step == 16
    assert details.progress.optimizer_step == 8
    assert details.progress.tokens_seen == 8 * 2 * 2 * 16
    assert details.progress.unit == "optimizer"
    assert details.recipe_hash == toy_recipe().recipe_hash
    assert details.versions["torch"] == torch.__version__
    evaluation = [line for line in journal_of(tmp_path) if line["kind"] == "evaluation"][-1]
    assert details.metrics["val_loss"] == evaluation["validation_loss"]
    assert details.metrics["val_bits_per_byte"] == evaluation["bits_per_byte"]
    assert details.metrics["train_loss"] > 0


def test_counting_micro_steps_manifest_and_log_say_so(tmp_path: Path) -> None:
    train_toy(tmp_path, toy_recipe(*MICRO), last_step=6)
    step = newest_step(tmp_path / "toy")
    assert step is not None
    progress = step.manifest.details.progress
    assert (step.number, progress.micro_step, progress.optimizer_step) == (6, 6, 2)
    assert progress.unit == "micro"
    log = (tmp_path / "toy" / "training.log").read_text()
    assert "run toy: starting at step 0 of 14 (micro steps)" in log


def test_evaluations_score_the_same_text_and_at_the_end_all_of_it_too(uninterrupted: Path) -> None:
    lines = [line for line in journal_of(uninterrupted) if line["kind"] == "evaluation"]
    assert [line["step"] for line in lines] == [4, 8, 12, 12]
    *usual, whole = [line["validation_tokens"] for line in lines]
    assert usual == [128, 128, 128]
    assert whole > 500
    step = newest_step(uninterrupted / "toy")
    assert step is not None
    assert step.manifest.details.metrics["val_loss"] == lines[2]["validation_loss"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("optimizer.lr=1e-4", r"optimizer\.lr: 0\.003 → 0\.0001"),
        ("batch.micro_batch=3", r"batch\.micro_batch: 2 → 3"),
        ("phases.0.steps=9", r"phases\.0\.steps: 8 → 9"),
    ],
)
def test_a_recipe_that_changed_in_mid_run_is_refused_field_by_field(
    change: str, named: str, tmp_path: Path
) -> None:
    train_toy(tmp_path, last_step=2)
    with pytest.raises(ValueError, match=named):
        train_toy(tmp_path, toy_recipe(change))


def test_what_cannot_change_weights_may_change_in_mid_run(tmp_path: Path) -> None:
    train_toy(tmp_path, last_step=2)
    recipe = toy_recipe("cadence.eval_every=3", "sample_prompts=[x]", "description=other")
    assert train_toy(tmp_path, recipe) is Ending.COMPLETE


def test_other_threads_than_before_are_warned_of(tmp_path: Path) -> None:
    train_toy(tmp_path, last_step=1)
    train_toy(tmp_path, last_step=2, threads=2)
    log = (tmp_path / "toy" / "training.log").read_text()
    assert "resumed with threads: '1' → '2'" in log


def test_a_second_trainer_on_a_run_is_refused(tmp_path: Path) -> None:
    with RunLock(tmp_path / "toy"), pytest.raises(WriterBusy, match="another trainer"):
        train_toy(tmp_path)


def test_a_run_starts_from_imported_weights_at_step_zero(tmp_path: Path) -> None:
    recipe = _recipe_for_toys()
    step = publish_toy(tmp_path, "toy", 0, config=recipe.model, seed=5)
    assert train_toy(tmp_path, recipe, last_step=1) is Ending.LIMIT
    log = (tmp_path / "toy" / "training.log").read_text()
    assert "starting from the imported weights of toy@0" in log
    first = journal_of(tmp_path)[0]
    assert first["step"] == 1
    newest = newest_step(tmp_path / "toy")
    assert newest is not None
    assert newest.manifest.details.tokenizer_fingerprint == (
        step.manifest.details.tokenizer_fingerprint
    )


def test_weights_without_a_training_state_cannot_be_gone_on_from(tmp_path: Path) -> None:
    recipe = _recipe_for_toys()
    publish_toy(tmp_path, "toy", 40, config=recipe.model)
    with pytest.raises(ValueError, match="holds weights without a training state"):
        train_toy(tmp_path, recipe)


def test_imported_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 0)
    with pytest.raises(ValueError, match=r"toy@0 holds another model .*hidden_size: 32 → 64"):
        train_toy(tmp_path)


def _recipe_for_toys() -> Recipe:
    return toy_recipe("tokenizer.source=weights", "tokenizer.vocab_size=1024")

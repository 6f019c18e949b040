import dataclasses
import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from serving import generation_request, reference_ids, toy_runner
from serving.native import native_config, open_native
from toys import publish_toy, toy_config, toy_decoder, toy_tokenizer, toy_weights

from lm.model.config import ModelConfig
from lm.model.decoder import decoder_from_weights
from lm.text.tokenizer import Tokenizer
from lm.volume import Step, StepDamaged, StepUnreadable, StepVanished, open_plain
from service.engine.gpu.placing import FusedFault
from service.engine.native.runner import NativeRunner
from service.engine.request import TokenGenerated
from service.engine.served_model import ServedModel
from service.models.kernels.backend import BackendOptions, Choice
from service.models.loading.loader import Loader, LoaderOptions
from service.models.loading.quality_probe import bits_per_byte
from service.models.refused import CheckpointRefused


def make_loader(
    *, dtype: str = "float64", max_model_tokens: int | None = None, verify_hashes: bool = True
) -> Loader:
    return Loader(
        LoaderOptions(
            backend=BackendOptions(
                device=torch.device("cpu"), dtype=dtype, num_slots=2, max_step_tokens=16
            ),
            max_model_tokens=max_model_tokens,
            verify_hashes=verify_hashes,
        )
    )


def served_by(dtype: str) -> tuple[ModelConfig, Loader]:
    """A toy and a loader for it: PyTorch or, for int8, the kernels."""
    if dtype == "int8":
        open_native()
        return native_config(), make_loader(dtype=dtype)
    return toy_config(), make_loader(dtype=dtype)


def answer(model: ServedModel) -> list[int]:
    model.engine.submit(generation_request("a", (5, 6, 7), max_new_tokens=6))
    events = []
    while not model.engine.is_idle:
        events += model.engine.step()
    return [event.token_id for event in events if isinstance(event, TokenGenerated)]


def flip_byte(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    status = path.stat()
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_step_becomes_a_model_that_names_itself(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 30, seed=4)
    model = make_loader().load(step)
    checkpoint = model.checkpoint
    assert (checkpoint.name, checkpoint.run, checkpoint.step) == ("toy@30", "toy", 30)
    assert checkpoint.fingerprint == step.manifest.fingerprint
    assert checkpoint.created_at == step.manifest.created_timestamp
    assert (model.dtype, model.device, model.max_model_tokens) == ("float64", "cpu", 256)
    assert model.tokenizer.fingerprint == toy_tokenizer().fingerprint
    assert model.load_s > 0
    expected = reference_ids(
        toy_decoder(4).double(), generation_request("a", (5, 6, 7), max_new_tokens=6)
    )
    assert answer(model) == expected


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_are_served_in_the_dtype_asked_for(tmp_path: Path, dtype: str, tied: bool) -> None:
    config = toy_config(tie_word_embeddings=tied)
    model = make_loader(dtype=dtype).load(publish_toy(tmp_path, "toy", 1, config=config))
    decoder = model.engine._runner._decoder
    assert {str(weight.dtype) for weight in decoder.parameters()} == {f"torch.{dtype}"}
    assert not any(weight.requires_grad for weight in decoder.parameters())
    assert (decoder.lm_head.weight is decoder.model.embed_tokens.weight) == tied
    assert model.engine._runner.cache.key.dtype is getattr(torch, dtype)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_float16_step_is_served_upcast(tmp_path: Path, dtype: str) -> None:
    """No CPU computes in float16 at a speed worth having; the settings do not offer it."""
    half = {name: weight.half() for name, weight in toy_weights(4).items()}
    step = publish_toy(tmp_path, "toy", 1, weights=half)
    assert '"dtype": "float16"' in (step.path / "config.json").read_text("utf-8")
    model = make_loader(dtype=dtype).load(step)
    decoder = model.engine._runner._decoder
    assert model.dtype in {"float32", "bfloat16"}
    assert {str(weight.dtype) for weight in decoder.parameters()} == {f"torch.{model.dtype}"}
    wide = {name: weight.to(decoder.lm_head.weight.dtype) for name, weight in half.items()}
    token_ids = torch.arange(20)[None]
    logits = decoder(token_ids)
    assert bool(logits.isfinite().all())
    assert torch.equal(logits, decoder_from_weights(toy_config(), wide).eval()(token_ids))


def test_auto_measures_once_and_says_what_it_chose(tmp_path: Path) -> None:
    loader = make_loader(dtype="auto")
    dtypes = {loader.load(publish_toy(tmp_path, "toy", step)).dtype for step in (1, 2, 3)}
    assert len(dtypes) == 1
    assert dtypes <= {"float32", "bfloat16"}


@pytest.mark.parametrize(("asked", "expected"), [(None, 256), (2, 2), (40, 40), (9999, 256)])
def test_the_context_is_the_models_or_less(
    tmp_path: Path, asked: int | None, expected: int
) -> None:
    model = make_loader(max_model_tokens=asked).load(publish_toy(tmp_path, "toy", 1))
    assert model.max_model_tokens == expected
    assert model.engine._runner.cache.max_tokens == expected


def test_what_happens_to_the_files_later_does_not_reach_the_model(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 1, seed=4)
    model = make_loader(dtype="float32").load(step)
    before = answer(model)
    for file in step.path.iterdir():
        os.truncate(file, 0)
        file.unlink()
    assert answer(model) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_flipped_byte_is_refused(tmp_path: Path, name: str) -> None:
    step = publish_toy(tmp_path, "toy", 1)
    file = step.path / name
    position = file.read_bytes().rindex(b"6") if name == "config.json" else file.stat().st_size // 2
    flip_byte(file, position)
    with pytest.raises((StepDamaged, CheckpointRefused)):
        make_loader().load(step)


@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_without_hashes_the_numbers_are_still_checked(tmp_path: Path, dtype: str) -> None:
    config, _ = served_by(dtype)
    weights = toy_weights(0, config)
    weights["model.norm.weight"][3] = torch.nan
    step = publish_toy(tmp_path, "toy", 1, config=config, weights=weights)
    with pytest.raises(CheckpointRefused) as refused:
        make_loader(dtype=dtype, verify_hashes=False).load(step)
    assert refused.value.reason == "weights_not_finite"


@pytest.mark.parametrize("dtype", ["float64", "int8"])
@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_the_config_are_damage(
    tmp_path: Path, change: str, dtype: str
) -> None:
    config, loader = served_by(dtype)
    weights = toy_weights(0, config)
    if change == "missing":
        del weights["model.layers.0.mlp.up_proj.weight"]
    elif change == "extra":
        weights["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2)
    else:
        weights["model.norm.weight"] = torch.ones(config.hidden_size + 1)
    step = publish_toy(tmp_path, "toy", 1, config=config, weights=weights)
    with pytest.raises(StepDamaged, match=r"up_proj|norm"):
        loader.load(step)


@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_damaged_weights_are_damage_whatever_their_numbers(tmp_path: Path, dtype: str) -> None:
    """Not a model whose numbers overflow: that would be refused for good."""
    config, loader = served_by(dtype)
    step = publish_toy(tmp_path, "toy", 1, config=config)
    file = step.path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4:] = b"\xff" * 4
    file.write_bytes(content)
    with pytest.raises(StepDamaged, match=r"model\.safetensors: SHA-256 differs"):
        loader.load(step)
    file.write_bytes(content[:-400])
    with pytest.raises(StepDamaged, match="ends too early"):
        loader.load(step)
    file.write_bytes(content + b"x")
    with pytest.raises(StepDamaged, match="goes on after its end"):
        loader.load(step)


def test_a_tokenizer_of_another_training_is_refused(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 1, tokenizer_fingerprint="0" * 64)
    with pytest.raises(CheckpointRefused) as refused:
        make_loader().load(step)
    assert refused.value.reason == "tokenizer"


def test_a_step_that_is_pruned_meanwhile_has_vanished(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 1)
    step.path.rename(tmp_path / "elsewhere")
    with pytest.raises(StepVanished):
        make_loader().load(step)


def test_a_step_without_a_tokenizer_is_damage(tmp_path: Path) -> None:
    step: Step = publish_toy(tmp_path, "toy", 1)
    (step.path / "tokenizer.json").unlink()
    with pytest.raises(StepDamaged, match="tokenizer"):
        make_loader().load(step)


def test_steps_with_the_same_tokenizer_files_share_one(tmp_path: Path) -> None:
    steps = [publish_toy(tmp_path, "toy", number, seed=number) for number in (1, 2)]
    loader = make_loader()
    first, second = (loader.load(step).tokenizer for step in steps)
    assert second is first
    careless = make_loader(verify_hashes=False)
    first, second = (careless.load(step).tokenizer for step in steps)
    assert second is first, "the bytes that were read are the same, whatever the manifests say"

    flip_byte(steps[1].path / "tokenizer_config.json")
    with pytest.raises(StepDamaged, match=r"tokenizer_config\.json"):
        loader.load(steps[1])


def test_a_flipped_byte_in_a_small_file_is_refused_by_its_hash(tmp_path: Path) -> None:
    """Nothing else would tell: another end token is as good a number."""
    step = publish_toy(tmp_path, "toy", 1)
    file = step.path / "generation_config.json"
    flip_byte(file, file.read_bytes().rindex(b"0"))
    with pytest.raises(StepDamaged, match=r"generation_config\.json: SHA-256 differs"):
        make_loader().load(step)


def test_bits_per_byte_are_measured_where_they_are_asked_for(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 1, seed=4)
    assert make_loader().load(step).bits_per_byte is None
    options = dataclasses.replace(make_loader()._options, measure_bits_per_byte=True)
    measured = Loader(options).load(step).bits_per_byte
    assert measured == pytest.approx(
        bits_per_byte(toy_runner(toy_decoder(4)), toy_tokenizer()), rel=1e-5
    )


def test_a_disk_that_fails_is_said_and_a_later_load_succeeds(tmp_path: Path) -> None:
    step = publish_toy(tmp_path, "toy", 1)
    failures = ["config.json", "model.safetensors"]

    def fail_once(path: Path) -> BinaryIO:
        if path.name in failures:
            failures.remove(path.name)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return open_plain(path)

    loader = Loader(make_loader()._options, fail_once)
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(StepUnreadable, match=f"{name}: Input/output error"):
            loader.load(step)
    assert loader.load(step).checkpoint.name == "toy@1"


def test_loops_are_looked_for_where_that_is_asked_for(tmp_path: Path) -> None:
    """All logits equal: the lowest id wins at once, which is the end token."""
    weights = {name: weight * 0 for name, weight in toy_weights(0).items()}
    step = publish_toy(tmp_path, "toy", 1, weights=weights)
    assert not make_loader().load(step).is_degenerate
    options = dataclasses.replace(make_loader()._options, look_for_loops=True)
    assert Loader(options).load(step).is_degenerate


def test_two_versions_share_no_cache(tmp_path: Path) -> None:
    """So nothing of a prompt that one has computed can reach another."""
    loader = make_loader()
    caches = [
        loader.load(publish_toy(tmp_path, "toy", step)).engine._runner.cache for step in (1, 2)
    ]
    assert caches[0].key.data_ptr() != caches[1].key.data_ptr()
    assert caches[0].value.data_ptr() != caches[1].value.data_ptr()


def test_kernels_of_a_gpu_that_fail_leave_the_model_to_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Triton finds no compiler, or a driver refuses what it compiled."""
    loader = make_loader()
    backend = loader._backend
    choose, runner = backend.choose, backend.runner

    def choose_fused(config: ModelConfig) -> Choice:
        if backend._fused_fault is None:
            return Choice(precision="bfloat16", is_fused=True)
        return dataclasses.replace(choose(config), not_fused=backend._fused_fault)

    def fail(config: ModelConfig, weights: Any, choice: Choice, max_tokens: int) -> Any:
        if choice.is_fused:
            raise FusedFault("RuntimeError: Failed to find C compiler")
        return runner(config, weights, choice, max_tokens)

    monkeypatch.setattr(backend, "choose", choose_fused)
    monkeypatch.setattr(backend, "runner", fail)
    model = loader.load(publish_toy(tmp_path, "toy", 1))
    assert (model.backend, model.dtype) == ("torch", "float64")
    assert model.not_fused == "RuntimeError: Failed to find C compiler"
    assert len(answer(model)) == 6


def test_a_tokenizer_in_memory_is_not_taken_for_one_with_other_end_tokens(tmp_path: Path) -> None:
    """End tokens are also in ``config.json``: without it a good step was refused."""
    loader = make_loader()
    assert loader.load(publish_toy(tmp_path, "toy", 1)).tokenizer.eos_token_ids == (0,)
    first = toy_tokenizer()
    other = Tokenizer(first.backend, bos_token_id=0, eos_token_ids=[0, 7])
    step = publish_toy(tmp_path, "toy", 2, tokenizer=other)
    assert loader.load(step).tokenizer.eos_token_ids == (0, 7)


def test_an_unlisted_file_poisons_no_tokenizer_in_memory(tmp_path: Path) -> None:
    loader = make_loader()
    first = publish_toy(tmp_path, "toy", 1)
    (first.path / "chat_template.jinja").write_text("{{ 1/0 }}")
    assert loader.load(first).tokenizer.chat_template is None
    assert loader.load(publish_toy(tmp_path, "toy", 2)).tokenizer.chat_template is None


def test_a_candidate_is_probed_aside_and_then_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads are those of the model that serves, until the candidate may."""
    turns: list[str] = []
    for name in ("keep_aside", "serve", "score"):
        real = getattr(NativeRunner, name)

        def noted(self: NativeRunner, *arguments: Any, of: str = name, real: Any = real) -> Any:
            turns.append(of)
            return real(self, *arguments)

        monkeypatch.setattr(NativeRunner, name, noted)
    config, loader = served_by("int8")
    loader.load(publish_toy(tmp_path, "toy", 1, config=config))
    assert turns[0] == "keep_aside"
    assert turns[-1] == "serve"
    assert "score" in turns

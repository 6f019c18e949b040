import os

import pytest
import torch
from toy_run import toy_recipe

from trainer.step import precision
from trainer.step.precision import autocast, choose_precision, float32_products, prepare_repeatable

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_recipe_s_own_choice_is_taken_unmeasured(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda *_, **__: 1 / 0)
    assert choose_precision(toy_recipe(f"precision={name}"), CPU)[0] == name


@pytest.mark.parametrize(
    ("speedup", "chosen"), [(0.5, "float32"), (1.2, "float32"), (2.0, "bfloat16")]
)
def test_auto_takes_bfloat16_where_the_clock_says_that_it_pays(
    speedup: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {}

    def measure(device: torch.device, **keywords: int) -> float:
        sizes.update(keywords)
        return speedup

    monkeypatch.setattr(precision, "bfloat16_speedup", measure)
    name, reason = choose_precision(toy_recipe("precision=auto"), CPU)
    assert name == chosen
    assert f"{speedup:.1f}x" in reason
    assert sizes == {"rows": 32, "width": 32, "inner": 48}


def test_float16_on_a_cpu_is_bfloat16_and_says_so() -> None:
    name, reason = choose_precision(toy_recipe("precision=float16"), CPU)
    assert name == "bfloat16"
    assert "float16 products are unusably slow on CPUs" in reason


def test_float32_products_are_as_asked_for_within_a_run_alone() -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    with float32_products("high"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"


def test_products_run_in_the_chosen_dtype_over_float32_weights() -> None:
    x, weight = torch.ones(2, 3), torch.ones(3, 4)
    with autocast("bfloat16", CPU):
        assert (x @ weight).dtype == torch.bfloat16
    with autocast("float32", CPU):
        assert (x @ weight).dtype == torch.float32


def test_float16_is_taken_where_there_is_a_gpu() -> None:
    name, reason = choose_precision(toy_recipe("precision=float16"), torch.device("cuda"))
    assert (name, reason) == ("float16", "float16: asked for by the recipe")


@pytest.mark.parametrize(
    ("kind", "wanted", "value"),
    [("cuda", True, ":4096:8"), ("cuda", False, None), ("cpu", True, None)],
)
def test_cublas_is_told_before_its_first_product_where_bits_are_to_repeat(
    kind: str, wanted: bool, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "of this test")  # undone at its end
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    prepare_repeatable(torch.device(kind), wanted=wanted)
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == value

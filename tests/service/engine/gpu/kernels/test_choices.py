"""Choices fit every shape and number of rows; the fastest by a timer is taken and kept."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from lm.model.config import ModelConfig
from service.engine.gpu.kernels.choices import (
    PARTS,
    Choices,
    ProductChoice,
    default_choices,
    fits,
    product_shape,
    static_parts,
    two_tiles,
)
from service.engine.gpu.kernels.measure import (
    attention_candidates,
    measure,
    product_candidates,
)
from service.models.kernels.gpu_choices import read_choices, write_choices

ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)


def shape(width: int, heads: int, key_value_heads: int, inner: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=49152,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=8192,
    )


SHAPES = (shape(576, 9, 3, 1536), shape(2048, 16, 4, 5632), shape(4096, 32, 8, 11008))


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: str(config.hidden_size))
@pytest.mark.parametrize("rows", ROWS)
def test_candidates_fit(config: ModelConfig, rows: int) -> None:
    for part in PARTS:
        found = product_candidates(config, rows, part)
        assert getattr(default_choices(config, rows), part) == found[0]
        assert 1 <= len(found) <= 6
        for choice in found:
            assert choice.outputs & (choice.outputs - 1) == 0
            assert choice.form != "sums" or rows <= 8
            if choice.form in ("parts", "tiles"):
                assert choice.rows >= min(rows, 16)
                assert fits(config, part, choice)
    for attention in attention_candidates(config, rows):
        assert attention.splits & (attention.splits - 1) == 0
        assert rows * config.num_key_value_heads * attention.splits <= max(
            512, rows * config.num_key_value_heads
        )


@pytest.mark.parametrize("slices", [4, 8])
@pytest.mark.parametrize("inner", [16, 96, 576, 960, 1536, 2048, 5632, 11008])
def test_static_parts_hold_the_inner_width(inner: int, slices: int) -> None:
    sizes = static_parts(inner, slices)
    assert sum(sizes) >= inner
    for size in sizes:
        assert size & (size - 1) == 0
        assert size >= 16 * slices
    assert sum(sizes) < 1.5 * max(inner, 32 * slices)


def test_an_inner_width_of_576_wastes_nothing() -> None:
    assert static_parts(576, 4) == (512, 64)
    assert static_parts(1536, 4) == (1024, 512)
    assert static_parts(2048, 4) == (1024, 1024)


@pytest.mark.parametrize("inner", [16, 48, 576, 1536, 2048, 5632, 11008])
def test_two_tiles_hold_the_inner_width(inner: int) -> None:
    first, second = two_tiles(inner)
    assert first + second >= inner
    assert first <= inner
    assert all(size & (size - 1) == 0 for size in (first, second))


def test_two_tiles_of_known_widths() -> None:
    assert [two_tiles(width) for width in (576, 1536, 2048)] == [(512, 64), (1024, 512), (2048, 0)]


def test_shared_memory_is_counted() -> None:
    wide = ProductChoice("parts", rows=64, outputs=64)
    assert not fits(SHAPES[0], "down", wide)
    assert fits(SHAPES[0], "qkv", wide)
    assert product_shape(SHAPES[0], "qkv") == (960, 576)


def test_the_fastest_of_each_part_is_taken() -> None:
    """A timer that charges each part for being what it is not to be."""
    config, rows = SHAPES[0], 32
    wanted = dataclasses.replace(
        default_choices(config, rows),
        down=ProductChoice("cublas"),
        attention=attention_candidates(config, rows)[-1],
    )
    seen: list[Choices] = []

    def time(choices: Choices) -> float:
        seen.append(choices)
        fields = dataclasses.fields(choices)
        return float(sum(getattr(choices, f.name) != getattr(wanted, f.name) for f in fields))

    assert measure(config, rows, time) == wanted
    assert len(seen) <= 25, "what measuring takes at a first start"


def test_choices_are_kept_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "made" / "decode.json"
    assert read_choices(path) is None
    chosen = default_choices(SHAPES[0], 8)
    write_choices(path, chosen)
    assert read_choices(path) == chosen
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"qkv": {"form": 3, "colour": 1}}'])
def test_a_damaged_file_is_no_choice(tmp_path: Path, text: str) -> None:
    path = tmp_path / "decode.json"
    path.write_text(text)
    assert read_choices(path) is None

"""What a card's measurements choose is measured once, whether or not it can be kept."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from lm.model.config import ModelConfig
from service.engine.gpu.kernels import measure
from service.engine.gpu.kernels.choices import Choices, default_choices
from service.engine.gpu.tensors import DecoderWeights
from service.models.kernels.gpu_choices import choices_on_disk

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
WEIGHTS = cast("DecoderWeights", SimpleNamespace())


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each measurement, which takes no card here."""
    seen: list[int] = []

    def fastest(config: ModelConfig, rows: int, timer: Any) -> Choices:
        seen.append(rows)
        return default_choices(config, rows)

    monkeypatch.setattr(measure, "fingerprint", lambda config, weights, rows: f"card-{rows}")
    monkeypatch.setattr(measure, "step_timer", lambda config, weights, rows: None)
    monkeypatch.setattr(measure, "measure", fastest)
    return seen


def test_a_measurement_is_kept_for_the_next_start(tmp_path: Path, measured: list[int]) -> None:
    chosen = choices_on_disk(tmp_path / "made")(CONFIG, WEIGHTS, 3)
    assert chosen == default_choices(CONFIG, 8)
    assert choices_on_disk(tmp_path / "made")(CONFIG, WEIGHTS, 8) == chosen
    assert measured == [8]
    (path,) = (tmp_path / "made").iterdir()
    assert Choices.from_dict(json.loads(path.read_text("utf-8"))) == chosen


def test_where_nothing_can_be_kept_it_is_measured_once_in_a_process(
    tmp_path: Path, measured: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory")
    choose = choices_on_disk(tmp_path / "file")
    assert choose(CONFIG, WEIGHTS, 1) == choose(CONFIG, WEIGHTS, 1)
    assert measured == [1]
    (warning,) = (one.message for one in caplog.records if one.levelno == logging.WARNING)
    assert warning.startswith("the kernels are measured again at the next start: ")


def test_many_rows_are_not_measured(tmp_path: Path, measured: list[int]) -> None:
    assert choices_on_disk(tmp_path)(CONFIG, WEIGHTS, 65) == default_choices(CONFIG, 65)
    assert measured == []

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lm.huggingface.torch_save import load_pickled


class Program:
    """What a pickle can be: on reading it, a shell makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_zip_4(content: object, path: Path) -> None:
    torch.save(content, path, pickle_protocol=4)


def dump_plainly(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def dump_in_text(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=0))


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_zip_4, dump_plainly, dump_in_text])
def test_a_pickle_that_would_run_code_is_refused_by_name_and_does_not_run(
    tmp_path: Path, save: Any
) -> None:
    evidence = tmp_path / "it-ran"
    path = tmp_path / "checkpoint.pt"
    save({"model_state_dict": {"wte.weight": 1.0}, "step": Program(evidence)}, path)
    with pytest.raises(ValueError, match=rf"it asks for {os.system.__module__}\.system, ") as error:
        load_pickled(path)
    assert "\n" not in str(error.value)
    assert not evidence.exists()


def test_the_program_of_these_tests_does_run_elsewhere(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Program(tmp_path / "it-ran")))
    assert (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (SimpleNamespace(x=1), "types.SimpleNamespace"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_a_class_of_its_own_is_refused_by_name(
    tmp_path: Path, content: object, wanted: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"model_state_dict": {}, "extra": content}, path)
    with pytest.raises(ValueError, match=f"it asks for {wanted}, "):
        load_pickled(path)


def test_a_protocol_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"model_state_dict": {"w": torch.ones(2)}}, path, pickle_protocol=4)
    with pytest.raises(ValueError, match=r"read safely: .*Unsupported operand"):
        load_pickled(path)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_tensors_and_plain_data_are_read(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "checkpoint.pt"
    save({"state_dict": OrderedDict(w=torch.arange(3.0)), "step": 7, "loss": 2.5}, path)
    content = load_pickled(path)
    assert torch.equal(content["state_dict"]["w"], torch.arange(3.0))
    assert (content["step"], content["loss"]) == (7, 2.5)


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(ValueError, match="no such file"):
        load_pickled(path)
    torch.save({"state_dict": {"w": torch.ones(200)}}, path)
    whole = path.read_bytes()
    for content in (b"", b"hello world", whole[: len(whole) // 2], b"PK\x03\x04" + bytes(50)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a checkpoint that can be read") as error:
            load_pickled(path)
        assert "\n" not in str(error.value)

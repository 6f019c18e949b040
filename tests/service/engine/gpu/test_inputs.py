"""What goes to a device and comes back, while it is steps behind."""

import numpy as np
import pytest
import torch

from service.engine.gpu.buffers.outputs import Outputs
from service.engine.gpu.inputs import DEPTH, Field, PackedInputs

CPU = torch.device("cpu")
FIELDS = {
    "ids": Field("i4", (3,)),
    "uniforms": Field("f8", (2,)),
    "tiles": Field("i4", (2, 2)),
    "scales": Field("f4", (1,)),
}


def test_every_field_arrives_where_its_tensor_is() -> None:
    inputs = PackedInputs(FIELDS, CPU)
    addresses = {name: tensor.data_ptr() for name, tensor in inputs.tensors.items()}
    for turn in range(2 * DEPTH):
        arrays = inputs.begin()
        arrays["ids"][:] = (1, 2, turn)
        arrays["uniforms"][:] = (0.25, turn)
        arrays["tiles"][:] = ((0, turn), (1, 1))
        arrays["scales"][:] = 0.5
        inputs.send()
        assert inputs.tensors["ids"].tolist() == [1, 2, turn]
        assert inputs.tensors["uniforms"].tolist() == [0.25, turn]
        assert inputs.tensors["tiles"].tolist() == [[0, turn], [1, 1]]
        assert inputs.tensors["scales"].tolist() == [0.5]
    assert {name: tensor.data_ptr() for name, tensor in inputs.tensors.items()} == addresses
    assert inputs.tensors["uniforms"].data_ptr() % 8 == 0, "aligned, whatever the order of fields"


def test_what_is_being_filled_is_not_what_was_sent_last() -> None:
    inputs = PackedInputs(FIELDS, CPU)
    seen = [inputs.begin()["ids"] for _ in range(DEPTH)]
    assert not any(np.shares_memory(seen[0], other) for other in seen[1:])
    assert np.shares_memory(seen[0], inputs.begin()["ids"]), "in turns"


class Copied:
    """Stands for an event of the device."""

    def __init__(self, log: list[str], name: str) -> None:
        self._log, self._name = log, name

    def record(self) -> None:
        self._log.append(f"sent {self._name}")

    def synchronize(self) -> None:
        self._log.append(f"waited for {self._name}")


def test_a_buffer_that_the_device_may_be_reading_is_waited_for() -> None:
    """A plan of many prompts fills the same step's inputs more than ``DEPTH`` times."""
    inputs, log = PackedInputs(FIELDS, CPU), list[str]()
    inputs._copied = [Copied(log, str(turn)) for turn in range(DEPTH)]
    for _ in range(DEPTH + 1):
        inputs.begin()
        inputs.send()
    sent_first = log.index("sent 1")
    assert log[0] == "waited for 1", "never recorded: no wait"
    assert "waited for 1" in log[sent_first:]
    assert log[-2:] == ["waited for 1", "sent 1"]


def test_outputs_of_many_runs_are_kept_until_they_are_read() -> None:
    outputs = Outputs(2, CPU)
    runs = []
    for turn in range(7):
        outputs.tokens.copy_(torch.tensor([turn, 10 + turn]))
        outputs.is_finite.copy_(torch.tensor([turn != 3, True]))
        outputs.send()
        runs.append(outputs.latest())
    read = [run.read(2) for run in runs]
    assert read == [([turn, 10 + turn], [turn != 3, True]) for turn in range(7)]


def test_buffers_are_used_again_once_they_are_read() -> None:
    outputs = Outputs(1, CPU)
    buffers = set()
    for _ in range(9):
        outputs.send()
        drawn = outputs.latest()
        buffers.add(drawn.buffer.data_ptr())
        drawn.read(1)
    assert len(buffers) == 1
    with pytest.raises(AssertionError):
        drawn.read(1)

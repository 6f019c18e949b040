"""Weights pass through two buffers, none of which is written while the device may still read it."""

import pytest
import torch
from torch import Tensor

from service.engine.gpu.buffers import staging
from service.engine.gpu.buffers.staging import StagedCopy


class Device:
    """Does what it was told only when somebody waits for it: the latest that a real one may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[tuple[Tensor, Tensor]] = []
        plain = Tensor.copy_

        def copy_(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
            if not non_blocking:
                return plain(target, source)
            self.waiting.append((target, source))
            return target

        self.plain = plain
        monkeypatch.setattr(Tensor, "copy_", copy_)

    def run(self, count: int) -> None:
        """Carry out the first orders."""
        for target, source in self.waiting[:count]:
            self.plain(target, source)
        del self.waiting[:count]

    def new_event(self) -> "Event":
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device
        self._last: Tensor | None = None

    def record(self) -> None:
        self._last = self._device.waiting[-1][1]

    def synchronize(self) -> None:
        orders = [source for _, source in self._device.waiting]
        for place, source in enumerate(orders):
            if source is self._last:
                self._device.run(place + 1)
                return


def test_all_rows_arrive_whatever_the_device_has_not_done_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(staging, "STAGING_BYTES", 64)
    device = Device(monkeypatch)
    copy = StagedCopy(device.new_event, pin_memory=False).copy
    sources = [torch.randn(11, 5), torch.randn(40), torch.randn(2, 3, 4), torch.randn(3, 90)]
    targets = [torch.zeros(source.shape, dtype=torch.bfloat16) for source in sources]
    expected = [source.to(torch.bfloat16) for source in sources]
    for target, source in zip(targets, sources, strict=True):
        copy(target, source)
        source.zero_()  # a piece is valid until the next one is asked for
    assert device.waiting, "the device is behind"
    device.run(len(device.waiting))
    assert all(map(torch.equal, targets, expected))

"""Why fused kernels cannot run is said by name."""

import importlib.metadata
import importlib.util
import shutil

import pytest
import torch

from service.engine.gpu.availability import has_dependent_launch, why_no_card, why_no_triton


def test_a_machine_without_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert why_no_triton() == "Triton is not installed"


@pytest.mark.parametrize(
    ("version", "why"),
    [("3.5.1", "Triton 3.5.1 is older than 3.6"), ("3.6.0", None), ("3.10.0+git1", None)],
)
def test_an_old_triton_is_named(
    monkeypatch: pytest.MonkeyPatch, version: str, why: str | None
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setenv("CC", "cc")
    assert why_no_triton() == why


def test_a_triton_of_another_name_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_package(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", no_package)
    assert why_no_triton() == "Triton is installed, but does not say its version"


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.6.0")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    assert why_no_triton() == "Triton needs a C compiler: install gcc"


@pytest.mark.parametrize(
    ("capability", "why", "dependent"),
    [
        ((7, 5), "compute capability 7.5 is below 8.0", False),
        ((8, 0), None, False),
        ((8, 9), None, False),
        ((9, 0), None, True),
        ((12, 0), None, True),
    ],
)
def test_cards(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], why: str | None, dependent: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    card = torch.device("cuda")
    assert why_no_card(card) == why
    assert has_dependent_launch(card) == dependent


def test_a_cpu_is_no_card() -> None:
    cpu = torch.device("cpu")
    assert why_no_card(cpu) == "cpu is no CUDA device"
    assert not has_dependent_launch(cpu)

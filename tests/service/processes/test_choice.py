import pytest
import torch

from service.processes import choice
from service.processes.choice import num_http_workers
from service.settings.schema import Settings


@pytest.mark.parametrize(
    ("given", "cuda", "cores", "expected"),
    [
        ({}, False, 8, 0),
        ({"engine": "thread"}, True, 8, 0),
        ({"engine": "thread", "http_workers": 1}, True, 8, 0),
        ({"device": "cpu"}, True, 8, 0),
        ({"engine": "process"}, False, 8, 1),
        ({"engine": "process", "http_workers": 3}, False, 8, 3),
        ({}, True, 16, 4),
        ({}, True, 4, 2),
        ({}, True, 1, 1),
        ({"http_workers": 7}, True, 1, 7),
        ({"device": "cuda:1"}, True, 16, 4),
    ],
)
def test_processes_are_for_gpus_and_for_who_asks(
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, object],
    cuda: bool,
    cores: int,
    expected: int,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0" if cuda else None)
    monkeypatch.setattr(choice, "_sees_cuda", lambda: cuda)
    monkeypatch.setattr(choice.os, "sched_getaffinity", lambda _: set(range(cores)))
    assert num_http_workers(Settings(**given)) == expected


def test_several_http_processes_need_an_engine_of_its_own() -> None:
    with pytest.raises(ValueError, match="http_workers above 1 need engine=process"):
        num_http_workers(Settings(engine="thread", http_workers=2))

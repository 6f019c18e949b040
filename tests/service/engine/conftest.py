"""Tests of engines run over both: the one in step with its runner, and the overlapped one."""

from collections.abc import Iterator
from typing import Any

import pytest
from serving import overlapped_engine, toy_engine

BOTH = {"in step": toy_engine, "overlapped": overlapped_engine}


@pytest.fixture(scope="module", autouse=True)
def engine_kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Decide which engine ``toy_engine`` makes in a test's module."""
    module: Any = request.module
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(request, "param"):
            patch.setattr(module, "toy_engine", BOTH[request.param])
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run whatever makes a ``toy_engine`` over both."""
    if getattr(metafunc.module, "toy_engine", None) is toy_engine:
        metafunc.parametrize("engine_kind", BOTH, indirect=True, scope="module")

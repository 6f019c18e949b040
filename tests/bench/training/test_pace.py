import io
import json

import pytest

from bench.training.pace import Enough, Pace


def test_it_rests_between_rounds_and_ends_after_the_last() -> None:
    out, commands = io.StringIO(), io.StringIO("\n\nnever read\n")
    pace = Pace([2, 1], out, commands)
    pace.rest()
    pace.step(3.0)
    assert commands.tell() == 1
    pace.step(2.0)
    assert commands.tell() == 2
    with pytest.raises(Enough):
        pace.step(1.0)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["loss"] for line in lines] == [3.0, 2.0, 1.0]
    assert all(line["seconds"] >= 0 for line in lines)

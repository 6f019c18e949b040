from bench.engine_process import engine_side, http_side, one_process


def test_every_side_is_measured() -> None:
    said = one_process(3) | engine_side(3) | http_side(3)
    assert len(said) == 5
    assert all(value > 0 for value in said.values())

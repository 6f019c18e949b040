"""The arithmetic of ``bench.training.time_to_quality``."""

from bench.training.time_to_quality import marks_of, reach


def line(step: int, bits: float, seconds: float, scored: int = 100) -> dict[str, float | int]:
    return {
        "step": step,
        "tokens_seen": 10 * step,
        "bits_per_byte": bits,
        "validation_tokens": scored,
        "seconds": seconds,
        "gap": 0.0,
    }


def test_every_evaluation_so_far_is_subtracted_and_nothing_else() -> None:
    lines = [line(1, 3.0, 0.5), line(2, 2.5, 0.25)]
    first, second = marks_of(lines, [10.0, 20.0])
    assert (first.wall_s, first.seconds) == (10.0, 9.5)
    assert (second.wall_s, second.seconds) == (20.0, 19.25)
    assert (second.step, second.tokens_seen, second.bits_per_byte) == (2, 20, 2.5)


def test_a_target_is_reached_at_the_first_evaluation_at_or_below_it() -> None:
    marks = marks_of([line(1, 3.0, 0), line(2, 2.5, 0), line(3, 2.4, 0)], [1.0, 2.0, 3.0])
    assert reach(marks, 2.5) == marks[1]
    assert reach(marks, 2.3) is None


def test_an_evaluation_of_a_part_reaches_nothing() -> None:
    marks = marks_of([line(1, 2.4, 0, scored=60), line(2, 2.5, 0)], [1.0, 2.0])
    assert reach(marks, 2.5) == marks[1]

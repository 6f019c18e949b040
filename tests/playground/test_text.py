from playground import text as words


def test_an_ending_says_speed_wait_and_provenance() -> None:
    event = {
        "finish_reason": "length",
        "usage": {"prompt_tokens": 4, "completion_tokens": 101},
        "timings": {"queue_s": 0.002, "ttft_s": 0.01, "total_s": 0.51},
        "checkpoint": {"name": "tiny@500"},
        "seed": 7,
    }
    assert words.answered(event) == (
        "200 tokens/s · first token after 10 ms · 101 tokens · waited 2 ms · seed 7 · "
        "`tiny@500` · length"
    )


def test_an_answer_without_tokens_has_no_speed() -> None:
    event = {
        "finish_reason": "stop",
        "usage": {"completion_tokens": 0},
        "timings": {"queue_s": None, "ttft_s": None, "total_s": 0.1},
        "checkpoint": {"name": "tiny@5"},
        "seed": 1,
    }
    assert words.answered(event) == "0 tokens · waited 0 ms · seed 1 · `tiny@5` · stop"


def test_texts_of_models_are_only_text() -> None:
    hostile = "<script>alert(1)</script>"
    for page in (
        words.side_by_side({"tiny@5": hostile}),
        words.samples([{"step": 5, "prompt": hostile, "text": hostile}]),
    ):
        assert "<script" not in page
        assert "&lt;script&gt;" in page


def test_samples_come_newest_first() -> None:
    lines = [{"step": step, "prompt": "a", "text": "b"} for step in (5, 1000)]
    page = words.samples(lines)
    assert page.index("step 1,000") < page.index("step 5")
    assert words.samples([]) == "<p>No samples yet.</p>"

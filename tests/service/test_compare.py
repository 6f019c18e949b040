from pathlib import Path

import pytest
from serving import generation_request, reference_ids
from serving.damaged_steps import publish_nan
from toys import publish_toy, toy_decoder, toy_tokenizer

from service.__main__ import main
from service.compare import Column, side_by_side

PROMPT = "To be"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    for step in (1, 2, 30):
        publish_toy(tmp_path, "toy", step, seed=step, metrics={"val_bits_per_byte": 1.5})
    publish_toy(tmp_path, "other", 7, seed=7, metrics={})
    return tmp_path


def said_by(seed: int, tokens: int) -> str:
    request = generation_request("a", tuple(toy_tokenizer().encode(PROMPT)), max_new_tokens=tokens)
    return PROMPT + toy_tokenizer().decode(reference_ids(toy_decoder(seed), request))


def compare(volume: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    options = ["--volume", str(volume), "--prompt", PROMPT, "--max-new-tokens", "6"]
    assert main(["compare", *options, *arguments]) == 0
    return capsys.readouterr().out


def test_each_checkpoint_says_what_the_reference_says(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = compare(volume, capsys, "--run", "toy", "--steps", "1,30,other@7", "--width", "3000")
    lines = printed.splitlines()
    assert [cell.strip() for cell in lines[0].split("│")] == [
        "toy@1 · 1.500 bits/byte",
        "toy@30 · 1.500 bits/byte",
        "other@7",
    ]
    columns = ["", "", ""]
    for line in lines[2:]:
        for index, cell in enumerate(line.split(" │ ")):
            columns[index] += cell.strip()
    for column, seed in zip(columns, (1, 30, 7), strict=True):
        assert column == "".join(
            line.strip() for line in said_by(seed, 6).expandtabs(4).splitlines()
        )


def test_latest_of_the_newest_run_is_what_is_compared_by_default(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(volume, capsys).startswith("other@7")


def test_a_refused_checkpoint_says_why(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_nan(volume, 40)
    printed = compare(volume, capsys, "--run", "toy", "--steps", "2,40", "--width", "400")
    assert "toy@40" in printed
    assert "refused (weights_not_finite): model.norm.weight" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "9"], "no model 'other@9'"),
        (["--steps", ",7"], "no model ''"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be positive"),
        (["--temperature", "-1"], "temperature"),
        (["--prompt", "x" * 1000], "tokens; other@7 takes 1 to 255"),
        (["--device", "abacus"], "unknown device"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_2(
    volume: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    options = ["--volume", str(volume), "--prompt", PROMPT]
    assert main(["compare", *options, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_columns_that_do_not_fit_go_below() -> None:
    columns = [Column(f"c{n}", "a b " * 20) for n in range(3)]
    for width in (20, 60, 200):
        lines = list(side_by_side(columns, width))
        assert max(map(len, lines)) <= width
        titles = [line for line in lines if line.startswith("c")]
        assert len(titles) == {20: 3, 60: 2, 200: 1}[width]


def test_line_breaks_of_a_text_are_kept() -> None:
    lines = list(side_by_side([Column("a", "one\n\ntwo"), Column("b", "three")], 60))
    assert [line.split("│")[0].strip() for line in lines[2:]] == ["one", "", "two"]

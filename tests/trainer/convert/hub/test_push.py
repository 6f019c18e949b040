"""``python -m trainer push`` with the Hub's own client, against a stand-in of its API."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import HubStandIn, point_at
from toys import publish_toy

from trainer.__main__ import main

huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("transformers")


pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # the client's


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    with HubStandIn() as stand_in:
        point_at(stand_in.url, monkeypatch, tmp_path / "cache")
        yield stand_in


def push(volume: Path, what: str, *more: str) -> int:
    where = ["--volume", str(volume), "--repo", "me/toy", "--measure-tokens", "0"]
    return main(["push", what, *where, *more])


def test_a_step_is_one_commit_with_a_card_and_a_tag(hub: HubStandIn, tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 7)
    assert push(tmp_path, "toy@7") == 0
    repo = hub.repos["me/toy"]
    assert repo.private
    oid, files = repo.files("step-7")
    assert oid == repo.commits[-1][0]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert b"step 7 of run `toy`" in files["README.md"]
    assert "Bearer hf_secret" in hub.tokens


def test_public_is_asked_for_by_name(hub: HubStandIn, tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 7)
    assert push(tmp_path, "toy", "--public", "--format", "fp16") == 0
    assert not hub.repos["me/toy"].private


def test_every_best_goes_on_where_it_was_cut_off(
    hub: HubStandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step, loss in ((1, 3.0), (2, 2.0), (3, 2.5), (4, 1.5)):
        publish_toy(tmp_path, "toy", step, seed=step, metrics={"val_loss": loss})
    assert push(tmp_path, "toy@1") == 0
    hub.fail_commits = 1
    assert push(tmp_path, "toy", "--every-best") == 2
    assert "push to me/toy failed" in capsys.readouterr().err
    assert list(hub.repos["me/toy"].tags) == ["step-1"]
    uploads = hub.uploads
    assert push(tmp_path, "toy", "--every-best") == 0
    assert list(hub.repos["me/toy"].tags) == ["step-1", "step-2", "step-4"]
    assert hub.uploads == uploads + 1, "the weights of step 2 were there from the first try"
    assert "toy@1 is there already, as me/toy@step-1" in capsys.readouterr().out
    assert hub.repos["me/toy"].files("step-2")[1] != hub.repos["me/toy"].files("step-4")[1]


def test_a_dry_run_asks_nothing_of_the_hub(
    hub: HubStandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_toy(tmp_path, "toy", 7)
    assert push(tmp_path, "toy", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "would create me/toy if it is not there (private)" in said
    assert "would push toy@7 as hf and tag it step-7, held-out loss 2.5000" in said
    assert hub.tokens == set()


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_toy(tmp_path, "toy", 7)
    point_at("http://127.0.0.1:9", monkeypatch, tmp_path / "cache")
    assert push(tmp_path, "toy") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("trainer: error: push to me/toy failed: ")
    assert "hf_secret" not in error


def test_without_a_token_it_says_where_one_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_toy(tmp_path, "toy", 7)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert push(tmp_path, "toy") == 2
    assert "set HF_TOKEN, or run: hf auth login" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["toy@7", "--every-best"], "leave out @STEP"),
        (["toy", "--repo", "toy"], "not of the form OWNER/NAME"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_toy(tmp_path, "toy", 7)
    assert push(tmp_path, *arguments) == 2
    assert error in capsys.readouterr().err

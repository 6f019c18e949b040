"""Odd files on the volume: no kind, size, name or content of one hurts the service or hides others.

Everything is put there while a stream runs; the newest good step is served in spite of it.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from serving import ServiceProcess, SteadyClient, assert_unhurt, wait_until
from serving.released import Released
from toys import publish_toy
from toys.damage import VISIBLE, edit_manifest, replace_by, socket_at, sparse_at

from lm.volume import step_name

STEP_DELAY_S = 0.005
HUNG_S = 5.0
"""A route that takes longer reads what never ends."""


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``toy@1`` and, before the service begins, runs that are none."""
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1)
    publish_toy(volume, "пробег", 1, seed=2)
    publish_toy(volume, "my run", 1, seed=3)
    publish_toy(volume, "odd", 1)
    edit_manifest(volume / "odd" / "step-00000001", _with(created_at="0001-01-01T00:00:00"))
    for name in ("a\nb", os.fsdecode(b"a\xff")):
        (volume / name).mkdir()
    (volume / "outside").symlink_to("/etc")
    (volume / "circle").symlink_to("circle")
    os.mkfifo(volume / "pipe")
    socket_at(volume / "socket")
    return volume


@pytest.fixture(scope="module")
def service(volume: Path) -> Iterator[ServiceProcess]:
    """Without ``--run``: the newest run has to be found among the odd ones."""
    with ServiceProcess(volume, step_delay_s=STEP_DELAY_S) as service:
        wait_until(lambda: service.client.get("/readyz").status_code == 200, "ready", timeout_s=60)
        yield service


def _with(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda values: values.update(changes)


def _lists(service: ServiceProcess) -> dict[str, Any]:
    """Every list of the service, none of them an error; what ``/checkpoints`` says."""
    for path in ("/v1/models", "/healthz", "/runs/toy/history", "/metrics"):
        assert service.client.get(path, timeout=HUNG_S).status_code == 200, path
    answer = service.client.get("/checkpoints", timeout=HUNG_S)
    assert answer.status_code == 200
    return answer.json()


def test_a_service_is_ready_among_odd_runs_and_says_which_they_are(service: ServiceProcess) -> None:
    listed = _lists(service)
    assert listed["run"] in ("toy", "пробег", "my run")
    assert {one["name"] for one in listed["checkpoints"]} == {
        *("toy@1", "пробег@1", "my run@1", "odd@1")
    }
    (odd,) = (one for one in listed["checkpoints"] if one["run"] == "odd")
    assert (odd["status"], odd["reason"]) == ("refused", "damaged")
    assert listed["left_out"].keys() == {r"a\nb", r"a\udcff", "outside"}


@pytest.mark.parametrize("name", ["пробег@1", "my run@1"])
def test_any_run_can_be_named_and_its_header_is_ascii(service: ServiceProcess, name: str) -> None:
    body = {"prompt": "To be", "max_new_tokens": 2, "model": name}
    answer = service.client.post("/generate", json=body)
    assert answer.status_code == 200
    assert answer.json()["checkpoint"]["name"] == name
    encoded = {"пробег@1": "%D0%BF%D1%80%D0%BE%D0%B1%D0%B5%D0%B3@1", "my run@1": "my%20run@1"}
    assert answer.headers["x-nestling-checkpoint"].startswith(f"{encoded[name]};fingerprint=")


@pytest.mark.parametrize(
    "name", ["..", "toy/../toy", "a\nb", "\ud800", "a\0", "x" * 5000, "outside"]
)
def test_a_name_that_is_no_run_is_a_clients_mistake(service: ServiceProcess, name: str) -> None:
    body = json.dumps({"prompt": "a", "max_new_tokens": 1, "model": name})
    for path in ("/generate", "/checkpoints/reload"):
        headers = {"content-type": "application/json"}
        answer = service.client.post(path, content=body, headers=headers)
        assert 400 <= answer.status_code < 500, (path, answer.text[:300])


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ServiceProcess]]:
    """A service that follows ``toy``, in a memory of half a gigabyte more than it has."""
    volume = tmp_path_factory.mktemp("followed")
    publish_toy(volume, "toy", 1)
    with ServiceProcess(volume, step_delay_s=STEP_DELAY_S, run="toy") as service:
        service.wait_serving("toy@1")
        service.limit_memory(512 * 2**20)
        yield volume, service


def _odd_steps(volume: Path) -> list[str]:
    """A step of every kind of damage and of oddness, each newer than what is served."""
    kinds = {
        **{name: damage for name, (damage, _) in VISIBLE.items()},
        "unlisted template": lambda path: (path / "chat_template.jinja").write_text("{{ 1/0 }}"),
        "unlisted endless template": lambda path: sparse_at(path / "chat_template.jinja"),
        "unlisted pipe": lambda path: os.mkfifo(path / "added_tokens.json"),
        "template by a link": lambda path: (path / "chat_template.jinja").symlink_to("/etc/passwd"),
        "tokenizer that is a pipe": replace_by(os.mkfifo, "tokenizer.json"),
        "manifest without permission": lambda path: (path / "manifest.json").chmod(0),
    }
    for number, damage in enumerate(kinds.values(), start=2):
        damage(publish_toy(volume, "toy", number, seed=number).path)
    return list(kinds)


def test_no_odd_step_keeps_the_next_good_one_from_serving(
    followed: tuple[Path, ServiceProcess],
) -> None:
    """One after the other, they would each have to be loaded; beside them a stream goes on."""
    volume, service = followed
    with SteadyClient(service) as steady:
        alone = steady.alone()
        last = 1 + len(_odd_steps(volume))

        def look() -> None:
            for _ in range(5):
                listed = _lists(service)
            refused = {one["step"] for one in listed["checkpoints"] if one["status"] == "refused"}
            assert len(refused) >= len(VISIBLE) - 2  # two have no manifest yet
            publish_toy(volume, "toy", last + 1, seed=99)
            service.wait_serving(f"toy@{last + 1}")

        under = steady.during(look)
        assert_unhurt(under, alone)
    assert service.client.get("/readyz").status_code == 200


def test_an_unlisted_template_has_no_effect_and_poisons_no_cache(
    followed: tuple[Path, ServiceProcess],
) -> None:
    volume, service = followed
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    step = publish_toy(volume, "toy", 200, seed=5)
    (step.path / "chat_template.jinja").write_text("{{ raise_exception('unlisted') }}")
    service.wait_serving("toy@200")
    assert service.client.post("/v1/chat/completions", json=chat).status_code == 200
    publish_toy(volume, "toy", 201, seed=6)
    service.wait_serving("toy@201")
    assert service.client.post("/v1/chat/completions", json=chat).status_code == 200


def test_another_runs_name_is_refused_by_name(followed: tuple[Path, ServiceProcess]) -> None:
    volume, service = followed
    step = publish_toy(volume, "toy", 300, seed=7)
    edit_manifest(step.path, _with(run="famous"))
    wait_until(lambda: _reason(service, 300) == "damaged", "toy@300 is refused", timeout_s=10)
    (said,) = (one for one in _lists(service)["checkpoints"] if one["step"] == 300)
    assert "the manifest says run 'famous'" in said["message"]
    assert said["name"] == "toy@300"
    shutil.rmtree(step.path)


def test_odd_journals_are_no_errors(followed: tuple[Path, ServiceProcess]) -> None:
    volume, service = followed
    sound = b'{"kind": "train", "step": 1, "loss": 2.5}\n'
    journals: list[bytes | Callable[[Path], object]] = [
        *(
            b"{}\n",
            b"null\n",
            b'{"kind": "train", "step": 1}\n',
            b'{"step": null, "kind": "train"}\n',
        ),
        *(b'{"kind": "train", "step": 1, "loss": "\\ud800"}\n', b"\xff\xfe\0" * 1000),
        b'{"kind": "train", "step": 1' + b"0" * 400 + b', "loss": 1}\n',
        b'{"kind": "train", "step": 1, "loss": 1' + b"0" * 400 + b"}\n",
        b'{"kind": "train", "step": 1, "loss": NaN}\n',
        b'{"kind": "evaluation", "step": 1, "validation_loss": [], "bits_per_byte": {}}\n',
        b"[" * 100_000 + b"\n",
        b'{"kind": "train", "a": "' + b"a" * (16 << 20) + b'"}\n',
        '{"kind": "train", "step": 2, "loss": 1.0, "text": "я'.encode()[:-1],
        b'{"step": 1, "prompt": "\\ud800", "text": "\\udfff"}\n',
        *(os.mkfifo, Path.mkdir, socket_at, sparse_at, lambda path: path.symlink_to("/dev/zero")),
    ]
    for odd in journals:
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = volume / "toy" / name
            if callable(odd):
                odd(path)
            else:
                path.write_bytes(sound + odd)
        answer = service.client.get("/runs/toy/history", timeout=HUNG_S)
        assert answer.status_code == 200, odd
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = volume / "toy" / name
            path.rmdir() if path.is_dir() else path.unlink()


def test_two_long_journals_are_not_read_at_each_call(
    followed: tuple[Path, ServiceProcess],
) -> None:
    volume, service = followed
    line = b'{"kind": "train", "step": 1, "loss": 2.5, "prompt": "a", "text": "%s"}\n' % (
        b"b" * 200
    )
    for name in ("metrics.jsonl", "samples.jsonl"):
        (volume / "toy" / name).write_bytes(line * ((16 << 20) // len(line)))
    with SteadyClient(service) as steady:
        alone = steady.alone()

        def ask() -> None:
            for _ in range(30):
                answer = service.client.get("/runs/toy/history", timeout=HUNG_S)
                assert answer.status_code == 200
                assert len(answer.content) < 1 << 20

        assert_unhurt(steady.during(ask), alone)


def _reason(service: ServiceProcess, step: int, run: str = "toy") -> str | None:
    listed = service.client.get("/checkpoints").json()["checkpoints"]
    return next((one["reason"] for one in listed if (one["run"], one["step"]) == (run, step)), None)


def _many_steps(volume: Path, count: int) -> None:
    """A run of steps that share their files."""
    step = publish_toy(volume, "toy", 1)
    for number in range(2, count + 1):
        path = step.path.with_name(step_name(number))
        shutil.copytree(step.path, path, copy_function=os.link)
        (path / "manifest.json").unlink()
        shutil.copy(step.path / "manifest.json", path)
        edit_manifest(path, _with(step=number))


def _idle_share(volume: Path, name: str, seconds: float) -> float:
    """Of one core, that a service takes while nobody asks for anything."""
    with ServiceProcess(volume, poll_interval_s=0.5) as service:
        service.wait_serving(name)
        time.sleep(5)  # what follows the first load
        process = psutil.Process(service.process.pid)
        before = process.cpu_times()
        time.sleep(seconds)
        after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / seconds


@pytest.mark.slow
def test_five_thousand_steps_cost_an_idle_service_next_to_nothing(tmp_path: Path) -> None:
    publish_toy(tmp_path / "one", "toy", 1)
    _many_steps(tmp_path / "many", 5000)
    alone = _idle_share(tmp_path / "one", "toy@1", 15.0)
    share = _idle_share(tmp_path / "many", "toy@5000", 15.0)
    assert share <= alone + 0.05, (share, alone)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"engine": "process", "http_workers": 2}], ids=str)
def test_a_stream_of_a_released_model_notices_no_odd_file(
    released: Released, tmp_path: Path, options: dict[str, Any]
) -> None:
    shutil.copytree(released.volume / "smollm2", tmp_path / "smollm2", copy_function=os.link)
    publish_toy(tmp_path, "toy", 1)
    with ServiceProcess(tmp_path, run="smollm2", dtype="float32", **options) as service:
        service.wait_serving(released.name)
        with SteadyClient(service, tokens=1000) as steady:
            alone = steady.alone(5.0)

            def attack() -> None:
                _odd_steps(tmp_path)
                odd = _odd_steps_of(tmp_path / "smollm2", 2)
                for name in ("metrics.jsonl", "samples.jsonl"):
                    line = b'{"kind": "train", "step": 1, "loss": 2.5, "text": "%s"}\n' % (
                        b"b" * 200
                    )
                    (tmp_path / "smollm2" / name).write_bytes(line * ((16 << 20) // len(line)))
                for _ in range(20):
                    _lists(service)
                    answer = service.client.get("/runs/smollm2/history", timeout=HUNG_S)
                    assert answer.status_code == 200
                wait_until(
                    lambda: _reason(service, odd, "smollm2") == "damaged",
                    "odd is refused",
                    timeout_s=20,
                )

            under = steady.during(attack, after_s=2.0)
            sys.stdout.write(f"files: alone {alone}; under {under}\n")
            assert_unhurt(under, alone, settled_bytes=steady.resident_bytes())


def _odd_steps_of(run_dir: Path, number: int) -> int:
    """A newer step of a run whose manifest is a pipe."""
    step = run_dir / step_name(number)
    shutil.copytree(run_dir / step_name(0), step, copy_function=os.link)
    (step / "manifest.json").unlink()
    os.mkfifo(step / "manifest.json")
    return number

"""What happens to the volume must not happen to clients."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import (
    LiveService,
    Stream,
    generation_request,
    reference_ids,
    stream_generate,
    toy_settings,
    wait_until,
)
from serving.damaged_steps import BAD_STEPS
from toys import publish_toy, toy_decoder, toy_tokenizer

from lm.volume import Retention, prune

PROMPT = "To be"


def expected_text(seed: int, max_new_tokens: int = 150) -> str:
    request = generation_request(
        "a", tuple(toy_tokenizer().encode(PROMPT)), max_new_tokens=max_new_tokens
    )
    return toy_tokenizer().decode(reference_ids(toy_decoder(seed).double(), request))


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    publish_toy(tmp_path / "volume", "toy", 1, seed=1)
    return tmp_path / "volume"


@pytest.fixture
def service(volume: Path) -> Iterator[LiveService]:
    with LiveService(toy_settings(volume)) as service:
        service.wait_ready()
        yield service


def answer(service: LiveService) -> Stream:
    return stream_generate(service.client, prompt=PROMPT, max_new_tokens=150, temperature=0)


def wait_serving(service: LiveService, name: str) -> None:
    wait_until(lambda: service.client.get("/readyz").json()["checkpoint"] == name, f"{name} serves")


def test_a_volume_that_vanishes_and_returns_is_not_noticed(
    service: LiveService, volume: Path
) -> None:
    away = volume.with_name("away")
    volume.rename(away)
    service.wait_for_looks()
    assert service.client.get("/readyz").status_code == 200
    assert answer(service).text == expected_text(1)
    assert service.client.get("/checkpoints").status_code == 200
    away.rename(volume)
    publish_toy(volume, "toy", 2, seed=2)
    wait_serving(service, "toy@2")
    assert answer(service).text == expected_text(2)
    assert service.metrics().value("checkpoint_swaps_total") == 2


def test_files_that_are_truncated_under_a_served_model_do_not_reach_it(
    service: LiveService, volume: Path
) -> None:
    """Mapped files would raise SIGBUS here, which no handler survives."""
    for file in (volume / "toy" / "step-00000001").iterdir():
        os.truncate(file, 0)
    service.wait_for_looks()
    assert answer(service).text == expected_text(1)
    assert service.client.get("/readyz").json()["checkpoint"] == "toy@1"


def test_a_run_that_is_wiped_and_begun_again_is_served(service: LiveService, volume: Path) -> None:
    publish_toy(volume, "toy", 500, seed=5)
    wait_serving(service, "toy@500")
    shutil.rmtree(volume / "toy")
    service.wait_for_looks()
    assert answer(service).text == expected_text(5)
    publish_toy(volume, "toy", 3, seed=3)
    wait_serving(service, "toy@3")
    assert answer(service).text == expected_text(3)
    assert service.metrics().by_label("checkpoint_info", "step") == {"3": 1}


@pytest.mark.slow
def test_a_trainer_that_publishes_and_prunes_in_a_hurry_loses_nobody(
    service: LiveService, volume: Path
) -> None:
    """Steps vanish while they are loaded; streams go on and the last one serves in the end."""

    def keep_streaming() -> list[Stream]:
        streams = [answer(service)]
        while service.client.get("/readyz").json()["checkpoint"] != "toy@30":
            streams.append(answer(service))
        return streams

    with ThreadPoolExecutor() as pool:
        clients: list[Future[list[Stream]]] = [pool.submit(keep_streaming) for _ in range(3)]
        for step in range(2, 31):
            publish_toy(volume, "toy", step, seed=step)
            prune(volume / "toy", Retention(keep_last=2))
        streams = [stream for client in clients for stream in client.result()]
    for stream in streams:
        assert stream.is_done
        assert stream.text == expected_text(stream.final["checkpoint"]["step"])
    refused = service.metrics().by_label("checkpoint_rejected_total", "reason")
    assert refused.keys() <= {"vanished"}
    assert answer(service).final["checkpoint"]["name"] == "toy@30"


def test_every_kind_of_bad_step_in_a_row_leaves_the_good_one(
    service: LiveService, volume: Path
) -> None:
    for step, (_, publish_bad) in enumerate(BAD_STEPS.values(), start=2):
        publish_bad(volume, step)
    wait_until(
        lambda: service.metrics().total("checkpoint_rejected_total") == len(BAD_STEPS),
        "all are refused",
    )
    service.wait_for_looks()
    metrics = service.metrics()
    assert metrics.total("checkpoint_rejected_total") == len(BAD_STEPS)
    assert metrics.by_label("checkpoint_info", "step") == {"1": 1}
    assert answer(service).text == expected_text(1)

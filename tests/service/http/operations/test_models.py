"""Models by name over HTTP: what can be named, and that each answer is that model's."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import (
    LiveService,
    generation_request,
    reference_ids,
    stream_generate,
    toy_settings,
    wait_until,
)
from serving.damaged_steps import publish_nan
from toys import publish_toy, toy_decoder, toy_tokenizer

SEEDS = {"toy@1": 1, "toy@2": 2, "toy@3": 3, "other@7": 7}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Follows ``toy``, whose best step is 2; the run ``other`` has one step, and step 4 is bad."""
    volume: Path = tmp_path_factory.mktemp("volume")
    for step, loss in ((1, 3.0), (2, 2.0), (3, 2.5)):
        publish_toy(volume, "toy", step, seed=step, metrics={"val_loss": loss})
    publish_toy(volume, "other", 7, seed=7)
    publish_nan(volume, 4)
    with LiveService(toy_settings(volume, run="toy", max_resident_models=3)) as service:
        service.wait_ready()
        yield service


def expected_text(name: str) -> str:
    request = generation_request("a", tuple(toy_tokenizer().encode("To be")), max_new_tokens=20)
    decoder = toy_decoder(SEEDS[name]).double()
    return toy_tokenizer().decode(reference_ids(decoder, request))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (None, "toy@3"),
        ("latest", "toy@3"),
        ("toy", "toy@3"),
        ("toy@latest", "toy@3"),
        ("toy@3", "toy@3"),
        ("best", "toy@2"),
        ("toy@best", "toy@2"),
        ("toy@1", "toy@1"),
        ("other", "other@7"),
        ("other@7", "other@7"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_each_name_is_answered_by_its_weights(
    service: LiveService, model: str | None, expected: str, stream: bool
) -> None:
    body = {"prompt": "To be", "max_new_tokens": 20, "temperature": 0, "model": model}
    if stream:
        answer = stream_generate(service.client, **body)
        text, final, headers = answer.text, answer.final, answer.headers
    else:
        response = service.client.post("/generate", json=body)
        final, headers = response.json(), response.headers
        text = final["text"]
    assert final["checkpoint"]["name"] == expected
    provenance = f"{expected};fingerprint={final['checkpoint']['fingerprint']}"
    assert headers["x-nestling-checkpoint"] == provenance
    assert text == expected_text(expected)


@pytest.mark.parametrize("model", ["toy@9", "nobody", "../toy@1", ""])
def test_an_unknown_model_is_a_404_that_names_what_exists(service: LiveService, model: str) -> None:
    response = service.client.post("/generate", json={"prompt": "a", "model": model})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "toy" in error["message"]


def test_a_refused_model_is_a_404_with_the_reason(service: LiveService) -> None:
    wait_until(
        lambda: service.metrics().total("checkpoint_rejected_total") == 1, "step 4 is refused"
    )
    for _ in range(2):
        response = service.client.post("/generate", json={"prompt": "a", "model": "toy@4"})
        assert response.status_code == 404
        message = response.json()["error"]["message"]
        assert "refused: model.norm.weight has values that are not finite" in message
    assert service.metrics().total("checkpoint_rejected_total") == 1
    refused = service.client.get("/v1/models/toy@4")
    assert refused.status_code == 404
    assert "was refused" in refused.json()["error"]["message"]


def test_models_are_listed_as_openai_does(service: LiveService) -> None:
    listed = service.client.get("/v1/models").json()
    assert listed["object"] == "list"
    meant = {one["id"]: one["checkpoint"] for one in listed["data"]}
    assert meant == {
        "latest": "toy@3",
        "toy": "toy@3",
        "toy@latest": "toy@3",
        "best": "toy@2",
        "toy@best": "toy@2",
        "toy@1": "toy@1",
        "toy@2": "toy@2",
        "toy@3": "toy@3",
        "other": "other@7",
        "other@latest": "other@7",
        "other@best": "other@7",
        "other@7": "other@7",
    }
    for one in listed["data"]:
        assert one["object"] == "model"
        assert one["owned_by"] == "nestling"
        assert isinstance(one["created"], int)
        assert service.client.get(f"/v1/models/{one['id']}").json() == one


def test_an_unknown_name_is_a_404_in_the_one_shape(service: LiveService) -> None:
    response = service.client.get("/v1/models/nobody")
    assert response.status_code == 404
    assert "there are other, toy" in response.json()["error"]["message"]


def test_many_names_at_once_stay_within_bounds(service: LiveService) -> None:
    def ask(number: int) -> str:
        model = list(SEEDS)[number % len(SEEDS)]
        body = {"prompt": "To be", "max_new_tokens": 20, "temperature": 0, "model": model}
        response = service.client.post("/generate", json=body)
        if response.status_code == 503:
            assert response.json()["error"]["code"] == "no_room"
            return "no room"
        assert response.json()["text"] == expected_text(model)
        assert len(service.runtime.residency.models) <= 3
        return model

    with ThreadPoolExecutor(6) as pool:
        answered = list(pool.map(ask, range(24)))
    assert {name for name in answered if name != "no room"} >= {"toy@3"}
    assert answered.count("no room") < 24
    statuses = {
        one["name"]: one["status"]
        for one in service.client.get("/checkpoints").json()["checkpoints"]
    }
    assert statuses["toy@3"] == "served"
    assert sorted(statuses.values()).count("resident") == 2
    assert service.metrics().value("models_resident") == 3

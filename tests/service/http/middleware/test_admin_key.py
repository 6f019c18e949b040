from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import LiveService, toy_settings, wait_until
from toys import publish_toy

from lm.volume import Retention, prune

KEY = {"Authorization": "Bearer open sesame"}


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    for step in (1, 2):
        publish_toy(tmp_path, "toy", step, seed=step)
    return tmp_path


@pytest.fixture
def service(volume: Path) -> Iterator[LiveService]:
    with LiveService(toy_settings(volume, admin_key="open sesame")) as service:
        service.wait_ready()
        yield service


def reload(service: LiveService, **body: object) -> httpx.Response:
    return service.client.post("/checkpoints/reload", json=body, headers=KEY)


def who_answers(service: LiveService) -> str:
    answer = service.client.post("/generate", json={"prompt": "a", "max_new_tokens": 1}).json()
    name: str = answer["checkpoint"]["name"]
    return name


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "open sesame"},
     {"Authorization": "Basic b3Blbg=="}, {"Authorization": "Bearer"}],
    ids=str,
)  # fmt: skip
def test_without_the_key_nothing_is_reloaded(service: LiveService, headers: dict[str, str]) -> None:
    body = {"model": "toy@1", "pin": True}
    response = service.client.post("/checkpoints/reload", json=body, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "unauthorized"
    assert who_answers(service) == "toy@2"


def test_where_no_key_is_set_nobody_may(volume: Path) -> None:
    with LiveService(toy_settings(volume)) as service:
        response = reload(service, model="toy@1", pin=True)
        assert response.status_code == 403
        assert "NESTLING_ADMIN_KEY" in response.json()["error"]["message"]


def test_a_pinned_step_serves_until_it_is_released_even_if_it_is_pruned(
    service: LiveService, volume: Path
) -> None:
    response = reload(service, model="toy@1", pin=True)
    assert response.status_code == 200
    assert response.json()["pinned"] is True
    assert response.json()["served"] == response.json()["loaded"]
    assert response.json()["served"]["name"] == "toy@1"
    for step in (3, 4):
        publish_toy(volume, "toy", step)
    prune(volume / "toy", Retention(keep_last=2))
    service.wait_for_looks()
    assert who_answers(service) == "toy@1"
    listed = service.client.get("/checkpoints").json()
    assert listed["pinned"] == "toy@1"
    (pinned,) = [one for one in listed["checkpoints"] if one["name"] == "toy@1"]
    assert (pinned["status"], pinned["on_volume"]) == ("served", False)
    gone = service.client.post("/generate", json={"prompt": "a", "model": "toy@2"})
    assert gone.status_code == 404
    released = reload(service)
    assert released.json()["served"]["name"] == "toy@4"
    assert released.json()["pinned"] is False
    assert who_answers(service) == "toy@4"
    assert service.client.get("/checkpoints").json()["pinned"] is None


def test_a_pruned_step_is_a_404_with_the_reason_after_a_restart(
    service: LiveService, volume: Path
) -> None:
    assert reload(service, model="toy@1", pin=True).is_success
    for step in (3, 4):
        publish_toy(volume, "toy", step)
    prune(volume / "toy", Retention(keep_last=2))
    body = {"prompt": "a", "max_new_tokens": 1, "model": "toy@1"}
    assert service.client.post("/generate", json=body).status_code == 200
    with LiveService(toy_settings(volume)) as restarted:
        restarted.wait_ready()
        response = restarted.client.post("/generate", json=body)
        assert response.status_code == 404
        assert "no longer; of run toy there are toy@4, toy@3" in response.text


def test_a_reload_without_a_pin_loads_for_those_who_name_it(service: LiveService) -> None:
    answer = reload(service, model="toy@1").json()
    assert (answer["loaded"]["name"], answer["served"]["name"]) == ("toy@1", "toy@2")
    assert answer["pinned"] is False
    assert who_answers(service) == "toy@2"


def test_a_reload_without_a_body_looks_at_once(volume: Path) -> None:
    settings = toy_settings(volume, admin_key="open sesame", poll_interval_s=3600.0)
    with LiveService(settings) as service:
        service.wait_ready()
        publish_toy(volume, "toy", 3)
        response = service.client.post("/checkpoints/reload", headers=KEY)
        assert response.json()["served"]["name"] == "toy@3"


@pytest.mark.parametrize(
    ("body", "status"),
    [({"pin": True}, 422), ({"model": "toy@9", "pin": True}, 404), ({"modle": "toy@1"}, 422)],
    ids=str,
)
def test_what_makes_no_sense_changes_nothing(
    service: LiveService, body: dict[str, object], status: int
) -> None:
    assert reload(service, **body).status_code == status
    assert who_answers(service) == "toy@2"


def test_the_key_is_not_in_the_settings_text(volume: Path) -> None:
    assert "sesame" not in repr(toy_settings(volume, admin_key="open sesame"))


def test_a_pin_of_another_run_leaves_the_names_of_the_followed_one(
    service: LiveService, volume: Path
) -> None:
    publish_toy(volume, "other", 5)
    assert reload(service, model="other@5", pin=True).json()["served"]["name"] == "other@5"
    body = {"prompt": "a", "max_new_tokens": 1, "model": "toy"}
    answer = service.client.post("/generate", json=body).json()
    assert answer["checkpoint"]["name"] == "toy@2"
    assert who_answers(service) == "other@5"
    wait_until(lambda: reload(service).json()["served"]["name"] == "toy@2", "toy is followed")

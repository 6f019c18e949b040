from pathlib import Path

import pytest
from serving import LiveService, toy_settings, wait_until
from serving.damaged_steps import BAD_STEPS
from toys import publish_toy


def test_the_list_says_what_is_served_and_what_was_measured(service: LiveService) -> None:
    listed = service.client.get("/checkpoints").json()
    assert listed["run"] == "toy"
    (checkpoint,) = listed["checkpoints"]
    assert (checkpoint["name"], checkpoint["step"]) == ("toy@7", 7)
    assert (checkpoint["status"], checkpoint["reason"], checkpoint["message"]) == (
        "served",
        None,
        None,
    )
    assert checkpoint["metrics"]["val_loss"] == 2.5
    assert checkpoint["created_at"].endswith("+00:00")


@pytest.mark.parametrize("kind", BAD_STEPS)
def test_a_refused_step_is_listed_counted_once_and_does_not_disturb(
    tmp_path: Path, kind: str
) -> None:
    reason, publish_bad = BAD_STEPS[kind]
    publish_toy(tmp_path, "toy", 1)
    publish_toy(tmp_path, "toy", 2)
    with LiveService(toy_settings(tmp_path)) as service:
        service.wait_ready()
        publish_bad(tmp_path, 3)
        wait_until(
            lambda: service.metrics().total("checkpoint_rejected_total") == 1, "step 3 is refused"
        )
        service.wait_for_looks()
        metrics = service.metrics()
        assert metrics.by_label("checkpoint_rejected_total", "reason") == {reason: 1}
        assert metrics.by_label("checkpoint_info", "step") == {"2": 1}
        listed = service.client.get("/checkpoints").json()["checkpoints"]
        assert [(one["step"], one["status"], one["reason"]) for one in listed] == [
            (1, "available", None),
            (2, "served", None),
            (3, "refused", reason),
        ]
        assert listed[2]["name"] == "toy@3"
        assert listed[2]["message"]
        assert service.client.get("/readyz").json()["checkpoint"] == "toy@2"
        publish_toy(tmp_path, "toy", 4)
        wait_until(
            lambda: service.client.get("/readyz").json()["checkpoint"] == "toy@4", "4 takes over"
        )

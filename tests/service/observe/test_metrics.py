import dataclasses
import math

import pytest
from serving import Exposition, toy_served

from service.engine.request import FinishReason, StepStats
from service.engine.served_model import ServedModel
from service.observe.metrics import Metrics
from service.observe.timings import Timeline


def scrape(metrics: Metrics) -> Exposition:
    return Exposition(metrics.exposition().decode())


def served(step: int, *, created_at: float = 100.0) -> ServedModel:
    model = toy_served(step=step)
    checkpoint = dataclasses.replace(model.checkpoint, created_at=created_at)
    return dataclasses.replace(model, checkpoint=checkpoint)


def test_a_fresh_service_shows_every_outcome_at_zero() -> None:
    exposition = scrape(Metrics(lambda: 0.0))
    assert exposition.by_label("requests_total", "outcome") == {
        reason.value: 0.0 for reason in FinishReason
    }
    assert exposition.value("num_requests_running") == 0
    assert exposition.value("checkpoint_swaps_total") == 0
    assert exposition.by_label("checkpoint_info", "step") == {}


def test_a_swap_replaces_the_labels_of_the_checkpoint_before() -> None:
    metrics = Metrics(lambda: 160.0)
    metrics.checkpoints.on_served(served(5))
    fused = dataclasses.replace(served(9, created_at=150.0), backend="fused", num_slots=23)
    metrics.checkpoints.on_served(fused)
    exposition = scrape(metrics)
    assert exposition.by_label("checkpoint_info", "step") == {"9": 1.0}
    assert exposition.by_label("checkpoint_info", "run") == {"toy": 1.0}
    assert exposition.value("checkpoint_step") == 9
    assert exposition.value("engine_slots") == 23
    assert exposition.value("engine_fused") == 1
    assert exposition.value("checkpoint_age_seconds") == 10.0
    assert exposition.value("checkpoint_swaps_total") == 2
    assert exposition.value("checkpoint_load_seconds_count") == 0


def test_loads_are_observed_whether_the_model_takes_over_or_not() -> None:
    metrics = Metrics(lambda: 0.0)
    metrics.checkpoints.on_loaded(served(5))
    assert scrape(metrics).value("checkpoint_load_seconds_sum") == pytest.approx(0.1)


def test_a_clock_that_is_set_back_makes_nothing_younger_than_now() -> None:
    metrics = Metrics(lambda: 50.0)
    metrics.checkpoints.on_served(served(5, created_at=100.0))
    assert scrape(metrics).value("checkpoint_age_seconds") == 0.0


def test_a_look_says_what_is_in_memory_and_whether_the_volume_is_there() -> None:
    metrics = Metrics(lambda: 0.0)
    metrics.checkpoints.on_looked(num_models=3, is_readable=False)
    exposition = scrape(metrics)
    assert exposition.value("models_resident") == 3
    assert exposition.value("volume_readable") == 0


def test_measured_bits_per_byte_are_shown_and_none_is_no_number() -> None:
    metrics = Metrics(lambda: 0.0)
    metrics.checkpoints.on_served(dataclasses.replace(served(5), bits_per_byte=1.25))
    assert scrape(metrics).value("checkpoint_probe_bpb") == 1.25
    metrics.checkpoints.on_served(served(6))
    assert math.isnan(scrape(metrics).value("checkpoint_probe_bpb"))


def test_the_age_grows_with_the_clock() -> None:
    now = [100.0]
    metrics = Metrics(lambda: now[0])
    metrics.checkpoints.on_served(served(5))
    assert scrape(metrics).value("checkpoint_age_seconds") == 0.0
    now[0] = 107.0
    assert scrape(metrics).value("checkpoint_age_seconds") == 7.0


def test_one_request_is_observed_once_in_every_histogram() -> None:
    metrics = Metrics(lambda: 0.0)
    timeline = Timeline(arrived=0.0)
    timeline.started = 0.5
    metrics.requests.on_started(timeline, 7, 3)
    for at in (1.0, 1.5, 2.5):
        metrics.requests.on_token(timeline, timeline.on_token(at))
    timeline.finished = 3.0
    metrics.requests.on_finished(timeline, FinishReason.LENGTH, 7, 3)
    exposition = scrape(metrics)
    expected = {
        "request_queue_time_seconds": (1, 0.5),
        "request_prefill_time_seconds": (1, 0.5),
        "request_decode_time_seconds": (1, 1.5),
        "time_to_first_token_seconds": (1, 1.0),
        "inter_token_latency_seconds": (2, 1.5),
        "e2e_request_latency_seconds": (1, 3.0),
        "request_prompt_tokens": (1, 7),
        "request_generation_tokens": (1, 3),
    }
    observed = {
        name: (exposition.value(f"{name}_count"), exposition.value(f"{name}_sum"))
        for name in expected
    }
    assert observed == expected
    assert exposition.value("prompt_tokens_total") == 7
    assert exposition.value("prefix_cache_queries_total") == 7
    assert exposition.value("prefix_cache_hits_total") == 3
    assert exposition.value("generation_tokens_total") == 3
    assert exposition.value("requests_total", {"outcome": "length"}) == 1


def test_a_request_that_never_started_has_an_end_and_no_first_token() -> None:
    metrics = Metrics(lambda: 0.0)
    timeline = Timeline(arrived=0.0, finished=2.0)
    metrics.requests.on_finished(timeline, FinishReason.ABORT, 7, 0)
    exposition = scrape(metrics)
    assert exposition.value("e2e_request_latency_seconds_sum") == 2.0
    for name in ("time_to_first_token", "request_queue_time", "request_decode_time"):
        assert exposition.value(f"{name}_seconds_count") == 0
    assert exposition.value("requests_total", {"outcome": "abort"}) == 1


@pytest.mark.parametrize(("cached", "capacity", "ratio"), [(25, 100, 0.25), (0, 0, 0.0)])
def test_gauges_show_the_last_turn(cached: int, capacity: int, ratio: float) -> None:
    metrics = Metrics(lambda: 0.0)
    stats = StepStats(
        num_running=3,
        num_waiting=2,
        batch_size=3,
        num_cached_tokens=cached,
        cache_capacity=capacity,
        num_draft_tokens=5,
        num_accepted_tokens=4,
    )
    metrics.engine.on_turn(stats)
    metrics.engine.on_turn(dataclasses.replace(stats, batch_size=0, num_draft_tokens=2))
    exposition = scrape(metrics)
    assert exposition.value("num_requests_running") == 3
    assert exposition.value("num_requests_waiting") == 2
    assert exposition.value("kv_cache_usage_ratio") == ratio
    assert exposition.value("spec_decode_draft_tokens_total") == 7
    assert exposition.value("spec_decode_accepted_tokens_total") == 8
    assert exposition.value("batch_size_count") == 1, "a turn without a step has no batch"


def test_refusals_are_counted_by_their_reason() -> None:
    metrics = Metrics(lambda: 0.0)
    for reason in ("queue_full", "queue_full", "draining"):
        metrics.requests.on_refused(reason)
    metrics.checkpoints.on_refused("damaged")
    exposition = scrape(metrics)
    assert exposition.by_label("admission_rejections_total", "reason") == {
        "queue_full": 2,
        "draining": 1,
    }
    assert exposition.by_label("checkpoint_rejected_total", "reason") == {"damaged": 1}


def test_two_services_do_not_share_their_numbers() -> None:
    first, second = Metrics(lambda: 0.0), Metrics(lambda: 0.0)
    first.requests.on_refused("draining")
    assert scrape(second).by_label("admission_rejections_total", "reason") == {}

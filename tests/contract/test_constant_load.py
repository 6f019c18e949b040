"""Sixteen streams at all times and a swap every ten seconds for three minutes: nobody notices.

In float64, where every text must equal the reference generator's of the checkpoint that it names.
"""

import itertools
import time
from pathlib import Path

import psutil
import pytest
from serving import ServiceProcess, wait_until
from serving.busy_clients import Crowd
from toys import publish_toy, toy_config

NUM_CLIENTS = 16
DURATION_S = 180.0
SWAP_EVERY_S = 10.0
SEEDS = 5
SETTLE_S = 5.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_swaps_under_constant_load_fail_nobody_and_mix_nothing(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 0, seed=0)
    with ServiceProcess(tmp_path, run="toy", num_slots=NUM_CLIENTS, step_delay_s=0.004) as service:
        service.wait_serving("toy@0")
        end = time.monotonic() + DURATION_S
        with Crowd(
            service.client,
            num_clients=NUM_CLIENTS,
            max_new_tokens=100,
            seed_of=lambda step: step % SEEDS,
        ) as crowd:
            for step in itertools.count(1):
                publish_toy(tmp_path, "toy", step, seed=step % SEEDS)
                published = time.monotonic()
                service.wait_serving(f"toy@{step}")
                crowd.wait_for_answers(f"toy@{step}")
                if time.monotonic() >= end:
                    break
                time.sleep(max(0.0, published + SWAP_EVERY_S - time.monotonic()))
        crowd.check()
        metrics = service.metrics()
        outcomes = metrics.by_label("requests_total", "outcome")
        assert outcomes["length"] + outcomes["stop"] == len(crowd.answered)
        assert sum(outcomes.values()) == len(crowd.answered)
        assert metrics.value("checkpoint_swaps_total") == step + 1
        assert metrics.total("checkpoint_rejected_total") == 0
        assert set(crowd.answered) >= {f"toy@{number}" for number in range(step + 1)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_is_that_of_one_model_again_after_each_swap(tmp_path: Path) -> None:
    """A hundred megabytes of weights, so that a second model would show."""
    config = toy_config(hidden_size=640, intermediate_size=2048, num_hidden_layers=4)
    assert config.num_parameters * 4 > 80e6

    publish_toy(tmp_path, "toy", 0, config=config)
    with ServiceProcess(tmp_path, run="toy", dtype="float32") as service:
        service.wait_serving("toy@0")
        process = psutil.Process(service.process.pid)

        def ask() -> None:
            body = {"prompt": "To be", "max_new_tokens": 40}
            assert service.client.post("/generate", json=body).is_success

        ask()
        one_model = process.memory_info().rss
        for step in range(1, 6):
            publish_toy(tmp_path, "toy", step, config=config)
            service.wait_serving(f"toy@{step}")
            ask()
            wait_until(
                lambda: process.memory_info().rss <= 1.1 * one_model,
                "memory returns",
                timeout_s=SETTLE_S,
            )

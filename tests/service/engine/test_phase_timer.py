"""Every second of a step is somewhere in its profile, once."""

import json
import signal
import time
from pathlib import Path

import pytest
from serving import generation_request, toy_engine, wait_until
from serving.native import native_runner, open_native
from serving.process import ServiceProcess
from toys import publish_toy, toy_tokenizer

from service.engine.engine import Engine
from service.engine.phase_timer import WAITING, Profile
from service.engine.request import StepStats


def run(engine: Engine, profile: Profile, prompts: list[tuple[int, ...]]) -> int:
    """Answer prompts as the worker would, a step a turn; how many turns computed something."""
    for number, prompt in enumerate(prompts):
        engine.submit(generation_request(str(number), prompt, max_new_tokens=5))
    steps = 0
    while not engine.is_idle:
        engine.step()
        profile.end(engine.stats())
        steps += engine.stats().batch_size > 0
    return steps


def test_parts_add_up_to_what_the_clock_says() -> None:
    now = [100.0]
    profile = Profile(lambda: now[0])
    stats = StepStats(batch_size=2, num_tokens=2)
    for _ in range(4):
        for part, seconds in ((WAITING, 5.0), ("scheduling", 0.001), ("drawing tokens", 0.003)):
            now[0] += seconds
            profile.lap(part)
        profile.end(stats)
    now[0] += 7.0
    profile.lap(WAITING)
    profile.end(StepStats())
    assert profile.report() == {
        "waiting_s": 27.0,
        "event_loop_hands_out_s": 0.0,
        "steps": {
            "one token a stream": {
                "count": 4,
                "streams": 2.0,
                "tokens": 2.0,
                "ms": 4.0,
                "ms_by_part": {"drawing tokens": 3.0, "scheduling": 1.0},
            }
        },
    }


@pytest.mark.parametrize("is_native", [True, False], ids=["native", "torch"])
def test_an_engines_steps_are_told_apart_by_kind(is_native: bool) -> None:
    profile = Profile(time.perf_counter)
    began = time.perf_counter()
    if is_native:
        runner = native_runner(open_native(), "int8")
        engine = Engine(runner, toy_tokenizer(), max_step_tokens=64, laps=profile)
    else:
        engine = toy_engine(laps=profile)
    profile.lap(WAITING)
    count = run(engine, profile, [(1, 2, 3), tuple(range(3, 30))])
    elapsed = time.perf_counter() - began
    steps = profile.report()["steps"]
    assert isinstance(steps, dict)
    assert "with a prompt" in steps
    assert sum(kind["count"] for kind in steps.values()) == count
    parts = {part for kind in steps.values() for part in kind["ms_by_part"]}
    assert parts >= {"scheduling", "making text and events"}
    assert ("kernels: attention" in parts) == is_native
    assert ({"computing", "launching"} & parts != set()) != is_native
    total = sum(kind["count"] * kind["ms"] for kind in steps.values()) / 1000
    assert 0 < total <= elapsed
    assert all(
        milliseconds >= 0 for kind in steps.values() for milliseconds in kind["ms_by_part"].values()
    )


def test_a_service_writes_its_profile_at_a_signal_and_at_its_end(tmp_path: Path) -> None:
    publish_toy(tmp_path / "volume", "toy", 1)
    path = tmp_path / "profile.json"
    with ServiceProcess(tmp_path / "volume", profile=path) as service:
        service.wait_serving("toy@1")
        service.client.post("/generate", json={"prompt": "To be", "max_new_tokens": 4})
        service.process.send_signal(signal.SIGUSR1)
        wait_until(path.exists, "the profile is written")
        first = json.loads(path.read_text("utf-8"))
        service.client.post("/generate", json={"prompt": "Not to be", "max_new_tokens": 4})
        service.process.terminate()
        assert service.process.wait(30) == 0
    last = json.loads(path.read_text("utf-8"))
    assert first["steps"].keys() <= last["steps"].keys()
    counts = [sum(kind["count"] for kind in report["steps"].values()) for report in (first, last)]
    assert 0 < counts[0] < counts[1]
    assert last["event_loop_hands_out_s"] > 0
    assert any("telling the event loop" in kind["ms_by_part"] for kind in last["steps"].values())

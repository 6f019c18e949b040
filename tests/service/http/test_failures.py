"""Requests that are not answered with text: refused at the door, or given up later."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving import (
    GatedService,
    LiveService,
    RawClient,
    Stream,
    stream_generate,
    toy_settings,
    wait_until,
)
from toys import publish_toy

from service.engine.engine import Engine
from service.engine.request import StepStats


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(4)
    yield pool
    pool.shutdown(wait=False)  # a test that failed may have left a step unreleased


def post(service: LiveService, **body: object) -> httpx.Response:
    return service.client.post("/generate", json={"prompt": "01", "seed": 1, **body})


def check(response: httpx.Response | Stream, status: int, code: str) -> None:
    """A whole error response, streamed request or not."""
    if isinstance(response, Stream):
        assert (response.status, response.is_done) == (status, False)
        (body,) = response.events
    else:
        assert response.status_code == status
        body = response.json()
    assert response.headers["content-type"] == "application/json"
    assert body["error"]["code"] == code


def check_told(stream: Stream, code: str) -> None:
    """A stream that had begun, told of its end in its last event."""
    assert stream.status == 200
    assert stream.is_done
    assert stream.token_ids, "something had been sent"
    assert stream.final.keys() == {"error"}
    assert stream.final["error"].keys() == {"message", "type", "code", "param"}
    assert stream.final["error"]["code"] == code
    assert "finish_reason" not in json.dumps(stream.events)


def test_without_a_model_it_is_503_with_the_reason(tmp_path: Path) -> None:
    with LiveService(toy_settings(tmp_path / "volume")) as service:
        for stream in (False, True):
            response = post(service, stream=stream)
            check(response, 503, "not_ready")
            assert "no run with a complete checkpoint in volume" in response.text
        rejections = service.metrics().by_label("admission_rejections_total", "reason")
        assert rejections == {"not_ready": 2}


def test_no_answer_says_where_the_volume_is(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    publish_toy(volume, "toy", 1)
    weights = volume / "toy" / "step-00000001" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    broken = volume / "toy" / "step-00000002"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    with LiveService(toy_settings(volume)) as service:
        paths = ("/checkpoints", "/readyz", "/v1/models", "/v1/models/toy@1", "/v1/models/toy@2")
        wait_until(lambda: "refused" in service.client.get("/checkpoints").text, "it is refused")
        answers = [service.client.get(path) for path in paths]
        answers += [post(service), post(service, model="toy@1"), post(service, model="toy@2")]
        texts = [answer.text for answer in answers]
        assert "toy/step-00000001" in texts[0]
        assert "toy/step-00000002" in texts[0]
        assert not [text for text in texts if str(tmp_path) in text or "Traceback" in text]


def test_a_full_queue_is_429_with_a_time_to_come_back(
    gated: GatedService, pool: ThreadPoolExecutor
) -> None:
    accepted = [pool.submit(post, gated, max_new_tokens=2) for _ in range(2)]
    wait_until(lambda: gated.runtime.switchboard.num_open == 2, "slot and queue are full")
    for stream in (False, True):
        response = post(gated, stream=stream)
        check(response, 429, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "overloaded_error"
    gated.decoder.open()
    assert [future.result().status_code for future in accepted] == [200, 200]
    metrics = gated.metrics()
    assert metrics.by_label("admission_rejections_total", "reason") == {"queue_full": 2}
    assert metrics.total("requests_total") == 2
    assert post(gated).status_code == 200, "there is room again"


def test_too_many_tokens_in_the_queue_are_429(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with GatedService(tmp_path, num_slots=1, max_step_tokens=2, max_waiting_tokens=20) as gated:
        accepted = [pool.submit(post, gated, max_new_tokens=9)]
        gated.decoder.release()
        gated.wait_for_steps(2)  # so the first has been seen to start
        accepted.append(pool.submit(post, gated, max_new_tokens=9))
        wait_until(lambda: gated.runtime.switchboard.num_open == 2, "one runs and one waits")
        response = post(gated, max_new_tokens=15)
        check(response, 429, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        message = response.json()["error"]["message"]
        assert message == ("waiting requests ask for 11 tokens; with 17 more they would exceed 20")
        accepted.append(pool.submit(post, gated, max_new_tokens=7))
        wait_until(lambda: gated.runtime.switchboard.num_open == 3, "a small one is accepted")
        gated.decoder.open()
        assert [future.result().status_code for future in accepted] == [200] * 3


def test_a_key_has_a_share_of_the_service(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    def ask(key: str, n: int = 1) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        body = {"prompt": "01", "max_new_tokens": 2, "n": n}
        return gated.client.post("/generate", json=body, headers=headers)

    keys = ["first-key", "second-key"]
    limits = {"api_keys": ",".join(keys), "max_requests_per_key": 2}
    with GatedService(tmp_path, num_slots=1, max_step_tokens=2, **limits) as gated:
        accepted = [pool.submit(ask, keys[0]) for _ in range(2)]
        wait_until(lambda: gated.runtime.switchboard.num_open == 2, "the first has its share")
        response = ask(keys[0])
        check(response, 429, "too_many_requests")
        assert int(response.headers["retry-after"]) >= 1
        check(ask(keys[1], n=3), 422, "invalid_request")  # never so many: each counts
        accepted.append(pool.submit(ask, keys[1], n=2))
        wait_until(lambda: gated.runtime.switchboard.num_open == 4, "the second is let in")
        check(ask(keys[1]), 429, "too_many_requests")
        gated.decoder.open()
        assert [future.result().status_code for future in accepted] == [200] * 3
        assert ask(keys[0], n=2).status_code == 200, "its share is free again"


def test_prompts_are_logged_only_if_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish_toy(tmp_path, "toy", 1)
    for log_prompts in (False, True):
        caplog.clear()
        with (
            caplog.at_level(logging.DEBUG),
            LiveService(toy_settings(tmp_path, log_prompts=log_prompts)) as service,
        ):
            service.wait_ready()
            post(service, prompt="swordfish", max_new_tokens=1)
            post(service, prompt="swordfish", max_new_tokens=9999)
            post(service, prompt="swordfish", temprature=1)
            service.client.post("/generate", content=b'{"prompt": "swordfish')
        said = [str(vars(record)) for record in caplog.records]
        assert any("swordfish" in one for one in said) == log_prompts


def test_refusals_are_counted_and_hold_nothing(gated: GatedService) -> None:
    check(post(gated, max_new_tokens=9999), 422, "context_length_exceeded")
    check(post(gated, prompt="0123456789" * 60), 422, "context_length_exceeded")
    metrics = gated.metrics()
    assert metrics.by_label("admission_rejections_total", "reason") == {
        "context_length_exceeded": 2
    }
    assert metrics.total("requests_total") == 0
    assert gated.decoder.num_begun == 0


def test_while_draining_it_is_503(gated: GatedService) -> None:
    gated.runtime.admission.is_draining = True
    check(post(gated), 503, "draining")
    ready = gated.client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["reason"] == "the service is shutting down"
    assert gated.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_deadline_before_the_first_token_is_504(
    gated: GatedService, pool: ThreadPoolExecutor, stream: bool
) -> None:
    running = pool.submit(post, gated, stream=stream)
    gated.wait_for_steps(1)
    waiting = pool.submit(post, gated, stream=stream)
    wait_until(lambda: gated.runtime.switchboard.num_open == 2, "the second is accepted")
    gated.pass_time(1000)
    gated.decoder.release()
    check(waiting.result(), 504, "deadline_exceeded")
    if stream:  # its first token came with the step that had begun in time
        assert '"error"' in running.result().text
    else:
        check(running.result(), 504, "deadline_exceeded")
    metrics = gated.metrics()
    assert metrics.by_label("requests_total", "outcome")["timeout"] == 2
    assert metrics.total("admission_rejections_total") == 0, "both were accepted"


def test_a_deadline_in_the_middle_of_a_stream_is_its_last_event(
    gated: GatedService, pool: ThreadPoolExecutor
) -> None:
    streaming = pool.submit(stream_generate, gated.client, prompt="01", seed=1)
    gated.decoder.release(2)
    gated.wait_for_steps(3)
    gated.pass_time(1000)
    gated.decoder.open()
    check_told(streaming.result(), "deadline_exceeded")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_model_that_fails_before_the_first_token_is_500(
    gated: GatedService, stream: bool
) -> None:
    gated.decoder.open()
    gated.decoder.fault = RuntimeError("out of cheese")
    response = post(gated, stream=stream)
    check(response, 500, "generation_failed")
    message = response.json()["error"]["message"]
    assert message == "the model's step failed: RuntimeError, see the log"
    gated.decoder.fault = None
    assert post(gated).status_code == 200, "the service goes on"
    metrics = gated.metrics()
    outcomes = metrics.by_label("requests_total", "outcome")
    assert (outcomes["error"], outcomes["length"] + outcomes["stop"]) == (1, 1)
    assert metrics.total("admission_rejections_total") == 0, "both were accepted"


def test_a_model_that_fails_in_the_middle_of_a_stream_is_its_last_event(
    gated: GatedService, pool: ThreadPoolExecutor
) -> None:
    streaming = pool.submit(stream_generate, gated.client, prompt="01", seed=1)
    gated.decoder.release(2)
    gated.wait_for_steps(3)
    gated.decoder.fault = RuntimeError("out of cheese")
    gated.decoder.open()
    check_told(streaming.result(), "generation_failed")
    metrics = gated.metrics()
    assert metrics.by_label("requests_total", "outcome")["error"] == 1
    assert metrics.value("num_requests_running") == 0
    assert metrics.value("kv_cache_usage_ratio") == 0


def test_an_engine_that_ends_by_a_bug_lets_nobody_wait_and_is_seen(
    gated: GatedService, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming = pool.submit(stream_generate, gated.client, prompt="01", seed=1)
    wait_until(lambda: gated.runtime.switchboard.num_open == 1, "the stream is the first")
    waiting = pool.submit(post, gated)
    wait_until(lambda: gated.runtime.switchboard.num_open == 2, "one runs and one waits")
    gated.decoder.release(2)
    gated.wait_for_steps(3)

    def lose_count(self: Engine) -> StepStats:
        raise AssertionError("a slot too many")

    monkeypatch.setattr(Engine, "stats", lose_count)
    gated.decoder.open()
    check_told(streaming.result(), "generation_failed")
    check(waiting.result(), 500, "generation_failed")
    check(post(gated), 503, "not_ready")
    for path in ("/healthz", "/readyz", "/health"):
        response = gated.client.get(path)
        assert response.status_code == 503
        assert "has to be restarted" in response.json()["reason"]
    assert gated.metrics().by_label("requests_total", "outcome")["error"] == 2


def test_shutting_down_in_the_middle_of_a_stream_is_its_last_event(
    gated: GatedService, pool: ThreadPoolExecutor
) -> None:
    streaming = pool.submit(stream_generate, gated.client, prompt="01", seed=1)
    gated.decoder.release(2)
    gated.wait_for_steps(3)
    gated.runtime.switchboard.abort_all()
    gated.decoder.open()
    check_told(streaming.result(), "draining")


def test_after_a_silence_the_headers_are_out_and_failure_is_an_event(tmp_path: Path) -> None:
    with GatedService(tmp_path, keep_alive_s=0.02) as gated:
        gated.decoder.fault = RuntimeError("out of cheese")
        client = RawClient.generate(gated.port, prompt="01", stream=True)
        assert client.read_until(b": keep-alive\n\n").startswith(b"HTTP/1.1 200 OK")
        gated.decoder.open()
        received = client.read_until(b"data: [DONE]\n\n")
        assert b'data: {"error":{"message":"the model\'s step failed' in received
        client.close()

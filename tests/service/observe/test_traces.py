"""A real service's spans, as a collector gets them."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from serving import GatedService, LiveService, RawClient, stream_generate, toy_settings
from serving.collector import Collector
from toys import publish_toy

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0"}


def attributes(span: Span) -> dict[str, Any]:
    """Attributes as plain values."""
    values = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        value = getattr(attribute.value, kind)
        values[attribute.key] = (
            [one.string_value for one in value.values] if kind == "array_value" else value
        )
    return values


def by_name(spans: list[Span]) -> dict[str, Span]:
    named = {span.name: span for span in spans}
    assert len(named) == len(spans), "a name is there twice"
    return named


def test_a_request_is_a_tree_of_spans_in_its_caller_s_trace(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 7)
    with Collector() as collector:
        with LiveService(toy_settings(tmp_path, otlp_endpoint=collector.url)) as service:
            service.wait_ready()
            service.client.headers["traceparent"] = f"00-{TRACE}-{CALLER}-01"
            stream = stream_generate(service.client, prompt="To be", max_new_tokens=5, seed=1)
            service.client.get("/healthz")
            exposition = service.client.get("/metrics", headers=OPENMETRICS).text
        spans = by_name(collector.spans)
    assert set(spans) == {
        "POST /generate",
        "text_completion toy@7",
        "queue",
        "prefill",
        "decode",
    }
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    request, whole = spans["POST /generate"], spans["text_completion toy@7"]
    phases = [spans[name] for name in ("queue", "prefill", "decode")]
    assert request.parent_span_id.hex() == CALLER
    assert whole.parent_span_id == request.span_id
    assert {phase.parent_span_id for phase in phases} == {whole.span_id}
    moments = [phases[0].start_time_unix_nano, *(phase.end_time_unix_nano for phase in phases)]
    assert moments == sorted(moments)
    assert moments[0] == whole.start_time_unix_nano
    assert moments[-1] == whole.end_time_unix_nano
    assert [phase.start_time_unix_nano for phase in phases] == moments[:-1]
    said = attributes(whole)
    assert said == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "nestling",
        "gen_ai.request.model": "toy",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": said["gen_ai.request.temperature"],
        "gen_ai.response.id": stream.headers["x-request-id"],
        "gen_ai.response.model": "toy@7",
        "gen_ai.response.finish_reasons": [stream.final["finish_reason"]],
        "gen_ai.usage.input_tokens": stream.final["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": stream.final["usage"]["completion_tokens"],
    }
    assert collector.resources[0]["service.name"] == "nestling"
    assert exemplars(exposition) == {
        "nestling_time_to_first_token_seconds": {TRACE},
        "nestling_e2e_request_latency_seconds": {TRACE},
    }


def exemplars(exposition: str) -> dict[str, set[str]]:
    """Trace ids that buckets of an OpenMetrics exposition lead to, by metric."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.exemplar is not None:
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


def test_a_request_that_fails_before_its_first_token_has_an_error_and_no_decode(
    tmp_path: Path,
) -> None:
    with Collector() as collector:
        with GatedService(tmp_path, otlp_endpoint=collector.url) as service:
            service.decoder.fault = RuntimeError("broken")
            service.decoder.release()
            answer = service.client.post("/generate", json={"prompt": "To be"})
            assert answer.status_code == 500
        spans = by_name(collector.spans)
    assert "decode" not in spans
    whole = spans["text_completion toy@1"]
    assert whole.status.code == Status.STATUS_CODE_ERROR
    assert attributes(whole)["error.type"] == "error"
    assert "broken" not in str(collector.spans), "what an error says may be of a prompt"


def test_who_leaves_in_the_queue_has_that_span_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Collector() as collector:
        with GatedService(tmp_path, num_slots=1, otlp_endpoint=collector.url) as service:
            first = RawClient.generate(service.port, prompt="To be", max_new_tokens=2)
            service.wait_for_steps(1)
            second = RawClient.generate(service.port, prompt="Or not", max_new_tokens=2)
            service.wait_for_commands(2)
            second.close()
            service.wait_for_commands(3)
            service.decoder.open()
            first.read_until(b"finish_reason")
            first.close()
        names = {span.name for span in collector.spans}
    ended = [record.fields for record in caplog.records if record.message == "request ended"]  # type: ignore[attr-defined]
    gone = next(fields for fields in ended if fields["client_gone"])
    of_gone = [span.name for span in collector.spans if span.trace_id.hex() == gone["trace_id"]]
    assert sorted(of_gone) == ["POST /generate", "queue", "text_completion toy@1"]
    assert "decode" in names, "of the one that stayed"


def test_off_means_no_span_no_thread_and_nothing_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_toy(tmp_path, "toy", 7)
    with LiveService(toy_settings(tmp_path)) as service:
        service.wait_ready()
        asked: list[object] = []
        monkeypatch.setattr(trace, "get_current_span", asked.append)
        answer = service.client.post("/generate", json={"prompt": "To be", "max_new_tokens": 2})
        assert answer.is_success
        assert service.runtime.traces is None
        assert asked == []
        text = service.client.get("/metrics", headers=OPENMETRICS).text
    assert exemplars(text) == {}


def test_an_endpoint_that_nobody_answers_at_harms_no_request(tmp_path: Path) -> None:
    publish_toy(tmp_path, "toy", 7)
    settings = toy_settings(tmp_path, otlp_endpoint="http://127.0.0.1:9")
    with LiveService(settings) as service:
        service.wait_ready()
        answer = service.client.post("/generate", json={"prompt": "To be", "max_new_tokens": 2})
        assert json.loads(answer.text)["usage"]["completion_tokens"] == 2

"""guidellm benchmarks the service for a minute without an error."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_tools import require_environment
from serving import ServiceProcess
from serving.released import Released

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STREAMS = 6
OUTPUT_TOKENS = 24


@pytest.fixture(scope="module")
def service(released: Released) -> Iterator[ServiceProcess]:
    with ServiceProcess(released.volume, dtype="auto") as service:
        service.wait_serving(released.name)
        yield service


@pytest.mark.parametrize(
    ("route", "seconds"), [("/v1/completions", 15), ("/v1/chat/completions", 60)]
)
def test_it_has_no_error_and_gets_the_tokens_that_it_asked_for(
    service: ServiceProcess, released: Released, tmp_path: Path, route: str, seconds: int
) -> None:
    program = require_environment("guidellm", "guidellm==0.8.1")
    url, report = str(service.client.base_url).rstrip("/"), tmp_path / "report.json"
    options = {
        "backend": f"kind=openai_http,target={url},request_format={route}",
        "profile": f"kind=concurrent,streams={STREAMS}",
        "constraint": f"kind=max_duration,seconds={seconds}",
        "tokenizer": f"kind=huggingface_auto,model={released.directory}",
        "data": f"kind=synthetic_text,prompt_tokens=48,output_tokens={OUTPUT_TOKENS}",
        "output": f"kind=json,path={report}",
    }
    command = [str(program), "run", "--disable-console"]
    for name, value in options.items():
        command += [f"--{name}", value]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    metrics = benchmark["metrics"]
    assert metrics["request_totals"]["errored"] == 0
    assert metrics["request_totals"]["successful"] > STREAMS, "no stream ends with its first"
    counts = metrics["output_token_count"]["successful"]
    assert counts["min"] == counts["max"] == OUTPUT_TOKENS, "past the model's own end"

"""``python -m trainer space``: what is written, and (slow) that it runs and answers by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from serving.waiting import wait_until
from tools import free_port
from toys import publish_toy, toy_config

from trainer.__main__ import main

pytest.importorskip("gradio")
pytest.importorskip("torchao")


def write(directory: Path, form: str) -> Path:
    """A Space around a toy in this format."""
    publish_toy(directory / "volume", "toy", 7)
    export, space = directory / f"toy-{form}", directory / "space"
    where = ["--volume", str(directory / "volume"), "--output", str(export)]
    assert main(["export", "toy", "--format", form, "--measure-tokens", "0", *where]) == 0
    assert main(["space", str(export), "--output", str(space)]) == 0
    return space


def test_app_requirements_card_and_model_are_written(tmp_path: Path) -> None:
    space = write(tmp_path, "int8")
    assert (space / "model" / "model.safetensors").is_file()
    compile((space / "app.py").read_text(), "app.py", "exec")
    pins = dict(line.split("==") for line in (space / "requirements.txt").read_text().split())
    assert pins.keys() == {"torch", "transformers", "safetensors", "gradio", "torchao"}
    assert "+" not in pins["torch"]
    _, metadata, text = (space / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(metadata)
    assert (values["title"], values["sdk"]) == ("toy-int8", "gradio")
    assert values["sdk_version"] == pins["gradio"]
    assert text.lstrip().startswith("# toy@7")


def test_what_is_no_export_for_transformers_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["space", str(tmp_path), "--output", str(tmp_path / "space")]) == 2
    assert "export as hf, fp16, bf16 or int8" in capsys.readouterr().err
    config = toy_config(positions="learned", mlp="gelu", num_key_value_heads=4, residual_scale=0.5)
    publish_toy(tmp_path / "volume", "toy", 7, config=config)
    export = tmp_path / "export"
    where = ["--volume", str(tmp_path / "volume"), "--output", str(export)]
    assert main(["export", "toy", "--format", "fp16", "--measure-tokens", "0", *where]) == 0
    assert main(["space", str(export), "--output", str(tmp_path / "space")]) == 2
    assert "no class for model_type 'nestling'" in capsys.readouterr().err
    assert not (tmp_path / "space").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["int8", "fp16"])
def test_it_runs_and_answers_by_itself(tmp_path: Path, form: str) -> None:
    space, port = write(tmp_path, form), free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
    }
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [sys.executable, "-u", "app.py"]
        app = subprocess.Popen(command, cwd=space, env=environment, stdout=output, stderr=output)
    try:
        wait_until(
            lambda: app.poll() is None and str(port) in log.read_text(), "it runs", timeout_s=180
        )
        ask = (
            "import sys, gradio_client as g; "
            f"c = g.Client('http://127.0.0.1:{port}', verbose=False); "
            "print(c.predict('To be', 8, 0.0, api_name='/generate'))"
        )
        answer = subprocess.run(
            [sys.executable, "-c", ask],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert answer.stdout.startswith("To be"), answer.stderr + log.read_text()
        assert len(answer.stdout.strip()) > len("To be")
    finally:
        app.terminate()
        app.wait(20)

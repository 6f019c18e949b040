"""Attack: tokenizers and chat templates that panic, grow, loop or recurse, through every door.

The gate refuses them by name and later good steps are served; what waits for a word of a client's
is bounded when it is asked for.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from serving import ServiceProcess, SteadyClient, assert_unhurt, wait_until
from tokenizers import Tokenizer as Backend
from toys import publish_toy, toy_config, toy_tokenizer, toy_weights

from lm.text.tokenizer import Tokenizer
from lm.volume import model_files
from lm.volume.publish import TextFile

ROOT = Path(__file__).parents[2]
PANIC = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
GROWING = {"type": "Replace", "pattern": {"String": "e"}, "content": "x" * 1_000_000}
TOKENIZERS: dict[str, Mapping[str, Any]] = {
    "panics": PANIC,
    "grows": {"normalizer": {"type": "Sequence", "normalizers": [GROWING] * 3}},
    "grows on a word": {"normalizer": GROWING | {"pattern": {"String": "zyzzyva"}}},
}
TEMPLATES = {
    "product": "{{ 'a' * 300000000 }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set n = namespace(x='aa') %}{% for i in range(99) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
}
ON_A_WORD = "{% set w = messages[-1].content %}" + "".join(
    f"{{% if w == '{name}' %}}{template}{{% endif %}}"
    for name, template in {
        **TEMPLATES,
        "divide": "{{ 1 / 0 }}",
        "range": "{{ range(99999999) }}",
        "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    }.items()
)
WORDS = (*TEMPLATES, "divide", "range", "recursion")


def with_template(template: str) -> Tokenizer:
    backend = toy_tokenizer().backend
    return Tokenizer(backend, bos_token_id=0, eos_token_ids=[0], chat_template=template)


def changed(changes: Mapping[str, Any]) -> str:
    return json.dumps(json.loads(toy_tokenizer().backend.to_str()) | changes)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory whose tokenizer panics."""
    directory = tmp_path_factory.mktemp("hostile")
    for name, writer in model_files(toy_weights(), toy_config(), toy_tokenizer()).items():
        writer(directory / name)
    (directory / "tokenizer.json").write_text(changed(PANIC))
    return directory


@pytest.fixture(scope="module", params=["thread", pytest.param("process", marks=pytest.mark.slow)])
def besieged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServiceProcess, Path]]:
    volume = tmp_path_factory.mktemp("volume")
    publish_toy(volume, "toy", 1, tokenizer=with_template(ON_A_WORD), **facts(ON_A_WORD))
    with ServiceProcess(volume, step_delay_s=0.005, engine=request.param) as service:
        service.wait_serving("toy@1")
        yield service, volume


def facts(template: str) -> dict[str, Any]:
    return {"tokenizer_fingerprint": with_template(template).fingerprint}


def wait_refused(service: ServiceProcess, step: int) -> str:
    """The reason why a step is refused, once it is."""

    def reasons() -> list[str]:
        listed = service.client.get("/checkpoints").json()["checkpoints"]
        return [one["reason"] for one in listed if one["step"] == step and one["reason"]]

    wait_until(reasons, f"step {step} is refused", timeout_s=90)
    return reasons()[0]


def test_no_step_stops_the_swaps(besieged: tuple[ServiceProcess, Path]) -> None:
    service, volume = besieged
    with SteadyClient(service) as steady:
        alone = steady.alone()

        def publish_all() -> None:
            for step, changes in enumerate(TOKENIZERS.values(), 10):
                files = {"tokenizer.json": TextFile(changed(changes))}
                publish_toy(volume, "toy", step, extra_files=files)
                assert wait_refused(service, step) == "tokenizer"
            for step, template in enumerate(TEMPLATES.values(), 20):
                publish_toy(volume, "toy", step, tokenizer=with_template(template))
                assert wait_refused(service, step) == "chat_template"

        under = steady.during(publish_all)
        publish_toy(volume, "toy", 30, tokenizer=with_template(ON_A_WORD), **facts(ON_A_WORD))
        service.wait_serving("toy@30")
        assert_unhurt(under, alone, settled_bytes=None)
    assert service.client.get("/healthz").status_code == 200
    assert "panicked at" not in service.client.get("/checkpoints").text


def test_no_message_makes_a_template_do_too_much(besieged: tuple[ServiceProcess, Path]) -> None:
    service, _ = besieged
    with SteadyClient(service) as steady:
        alone = steady.alone()

        def ask_all() -> None:
            for word in WORDS:
                body = {"messages": [{"role": "user", "content": word}], "max_tokens": 1}
                answer = service.client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 400, (word, answer.text)
                assert "template" in answer.text
                assert len(answer.text) < 1000

        under = steady.during(ask_all)
        assert_unhurt(under, alone, settled_bytes=steady.resident_bytes())


@pytest.mark.parametrize(
    "arguments",
    [
        ["trainer", "import", "{hostile}", "--volume", "{volume}"],
        ["service", "--model", "{hostile}", "--port", "0"],
        ["trainer", "--recipe", "{recipe}", "--volume", "{volume}"],
        ["trainer", "export", "toy", "--output", "{exported}", "--volume", "{poisoned}"],
    ],
    ids=["import", "--model", "train", "export"],
)
def test_every_door_says_so_in_a_line(hostile: Path, tmp_path: Path, arguments: list[str]) -> None:
    poisoned = tmp_path / "poisoned"
    publish_toy(poisoned, "toy", 1, extra_files={"tokenizer.json": TextFile(changed(PANIC))})
    places = {
        "hostile": hostile,
        "volume": tmp_path / "volume",
        "poisoned": poisoned,
        "exported": tmp_path / "exported",
        "recipe": "tiny",
    }
    given = [one.format(**places) for one in arguments]
    if "--recipe" in given:
        recipe = tmp_path / "recipe.yaml"
        text = resources.files("trainer.recipe.recipes").joinpath("tiny.yaml").read_text("utf-8")
        ours = f"tokenizer:\n  source: {hostile}\n"
        recipe.write_text(re.sub(r"(?m)^tokenizer:\n(  .*\n)+", ours, text))
        given[given.index("tiny")] = str(recipe)
    done = subprocess.run(
        [sys.executable, "-m", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") < 20
    last = done.stderr.strip().splitlines()[-1]
    assert "the tokenizer failed inside its library" in last, done.stderr
    assert "Traceback" not in done.stderr
    assert "panicked" not in done.stderr


def test_the_panic_is_one() -> None:
    with pytest.raises(BaseException, match="precompiled") as panic:
        Backend.from_str(changed(PANIC))
    assert not isinstance(panic.value, Exception)

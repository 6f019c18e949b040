"""lm-eval over HTTP gives the scores of its own ``hf`` model on the same weights."""

import json
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from machine_tools import require_environment
from serving import ServiceProcess
from serving.released import Released

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUESTIONS = (
    ("What is the capital of France?", ("Paris.", "London.", "Rome.", "Berlin.")),
    ("What do bees make?", ("Honey.", "Milk.", "Bread.", "Wool.")),
    ("How many legs does a spider have?", ("Eight.", "Six.", "Four.", "Two.")),
    ("What is frozen water called?", ("Ice.", "Steam.", "Sand.", "Oil.")),
    ("Which planet do we live on?", ("Earth.", "Mars.", "Venus.", "Saturn.")),
    ("Who wrote Hamlet?", ("William Shakespeare.", "Jane Austen.", "Homer.", "Dante.")),
    ("What is two plus two?", ("4.", "5.", "22.", "0.")),
    ("What colour is grass?", ("Green.", "Blue.", "Red.", "White.")),
    ("Which animal says moo?", ("The cow.", "The cat.", "The bee.", "The owl.")),
    ("What is 日本 called in English?", ("Japan.", "China.", "Korea.", "Peru.")),
    ("Which month comes after May?", ("June.", "April.", "July.", "January.")),
    ("What is the opposite of hot?", ("Cold.", "Warm.", "Dry.", "Red.")),
)
"""With an answer that is right and three that are not."""

ASKED = "<|im_start|>user\n{{question}}<|im_end|>\n<|im_start|>assistant\n"  # the answer is an end
TASKS: tuple[dict[str, Any], ...] = (
    {
        "task": "nestling_choices",
        "output_type": "multiple_choice",
        "doc_to_text": ASKED,
        "target_delimiter": "",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    {
        "task": "nestling_answers",
        "output_type": "generate_until",
        "doc_to_text": ASKED,
        "target_delimiter": "",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n", " is"], "max_gen_toks": 24, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
)


@pytest.fixture(scope="module")
def service(released: Released) -> Iterator[ServiceProcess]:
    with ServiceProcess(released.volume, dtype="float32") as service:
        service.wait_serving(released.name)
        yield service


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of tasks and their questions, as lm-eval reads them."""
    here = tmp_path_factory.mktemp("tasks")
    lines = [json.dumps({"question": q, "choices": c}) + "\n" for q, c in QUESTIONS]
    (here / "questions.jsonl").write_text("".join(lines))
    for task in TASKS:
        data = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(here / "questions.jsonl")}},
            "test_split": "test",
        }
        (here / f"{task['task']}.yaml").write_text(yaml.safe_dump(task | data))
    return here


def evaluate(
    tasks: Path, output: Path, kind: str, *, batch_size: int = 1, **model: object
) -> dict[str, Any]:
    """Run lm-eval; results and samples by task."""
    program = require_environment("lm_eval", "lm-eval[api]==0.4.13")
    command = [str(program), "run", "--model", kind, "--batch_size", str(batch_size)]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in model.items())]
    command += ["--tasks", ",".join(task["task"] for task in TASKS)]
    command += ["--include_path", str(tasks), "--output_path", str(output), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(output / "home")}
    done = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = output.rglob("results_*.json")
    samples = {
        task["task"]: [
            json.loads(line)
            for line in next(output.rglob(f"samples_{task['task']}_*")).read_text().splitlines()
        ]
        for task in TASKS
    }
    return {"results": json.loads(results.read_text())["results"], "samples": samples}


@pytest.fixture(scope="module")
def theirs(released: Released, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What lm-eval says of the weights when it computes itself."""
    output = tmp_path_factory.mktemp("theirs")
    return evaluate(tasks, output, "hf", pretrained=released.directory, dtype="float32")


@pytest.mark.parametrize(
    "options",
    [{"num_concurrent": 1}, {"num_concurrent": 6, "batch_size": 3, "tokenized_requests": False}],
    ids=["ids-alone", "texts-in-batches"],
)
def test_scores_are_those_of_lm_evals_own_model(
    service: ServiceProcess,
    released: Released,
    tasks: Path,
    theirs: dict[str, Any],
    tmp_path: Path,
    options: dict[str, object],
) -> None:
    ours = evaluate(
        tasks,
        tmp_path,
        "local-completions",
        base_url=f"{service.client.base_url}/v1/completions",
        model="latest",
        tokenizer_backend="huggingface",
        tokenizer=released.directory,
        **options,
    )
    assert ours["results"] == theirs["results"]
    assert 0.3 < ours["results"]["nestling_choices"]["acc,none"] <= 1
    for task, samples in theirs["samples"].items():
        for mine, other in zip(ours["samples"][task], samples, strict=True):
            pairs = zip(mine["filtered_resps"], other["filtered_resps"], strict=True)
            assert [mine for mine, other in pairs if not same(mine, other)] == []


def same(mine: Any, other: Any) -> bool:
    """Whether two answers are one: a text, or a log-probability and whether it is the greedy one.

    Both are kept as text.
    """
    if isinstance(other, str):
        return bool(mine == other)
    return mine[1] == other[1] and math.isclose(float(mine[0]), float(other[0]), abs_tol=1e-3)

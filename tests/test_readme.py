"""The README's commands work: every one of them is parsed by the program that it calls."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from playground.__main__ import build_parser as build_playground_parser
from service.capacity import build_parser as build_capacity_parser
from service.compare import build_parser as build_compare_parser
from service.http.protocols.nestling.schemas import Answer, GenerateRequest
from service.settings.command_line import build_parser
from trainer import options
from trainer.convert.exporting.__main__ import build_parser as build_export_parser
from trainer.convert.hub.__main__ import build_parser as build_push_parser
from trainer.convert.importing.__main__ import build_parser as build_import_parser
from trainer.convert.space.space import build_parser as build_space_parser
from trainer.recipe.recipes import load_recipe

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    *(f"docs/{page}.md" for page in ("exporting", "http", "operations", "playground", "recipes")),
]


def commands(page: str) -> list[str]:
    """Commands in the page's shell blocks, continued lines joined."""
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    joined = "".join(blocks).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


ALL = [command for page in PAGES for command in commands(page)]


def test_the_readme_shows_commands() -> None:
    shown = commands("README.md")
    assert shown[:2] == ["make run", "make test"]
    assert any(command.startswith("curl ") for command in shown)


@pytest.mark.parametrize("command", [c for c in ALL if c.startswith("make ")])
def test_a_make_command_is_a_target(command: str) -> None:
    arguments = shlex.split(command)[1:]
    dry_run = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert dry_run.returncode == 0, dry_run.stderr


@pytest.mark.parametrize("command", [c for c in ALL if "-m trainer" in c])
def test_a_trainer_command_is_understood(command: str) -> None:
    arguments = shlex.split(command.partition("-m trainer")[2])
    parsers = {
        "describe": options.describe_parser,
        "export": build_export_parser,
        "import": build_import_parser,
        "plot": options.plot_parser,
        "push": build_push_parser,
        "recipes": options.recipes_parser,
        "space": build_space_parser,
    }
    if arguments and arguments[0] in parsers:
        values = parsers[arguments[0]]().parse_args(arguments[1:])
    else:
        values = options.train_parser().parse_args(arguments)
    recipe = getattr(values, "recipe", None)
    assert recipe is None or load_recipe(recipe).name == recipe


@pytest.mark.parametrize("command", [c for c in ALL if "-m service" in c])
def test_a_service_command_is_understood(command: str) -> None:
    arguments = shlex.split(command.partition("-m service")[2])
    if arguments[:1] == ["compare"]:
        assert build_compare_parser().parse_args(arguments[1:]).prompt
        return
    if arguments[:1] == ["capacity"]:
        assert build_capacity_parser().parse_args(arguments[1:]).slots
        return
    if arguments[:1] == ["settings"]:
        assert build_parser().parse_args(arguments[1:])
        return
    call = build_parser().parse_args(arguments)
    assert call.volume or call.model


@pytest.mark.parametrize("command", [c for c in ALL if "-m playground" in c])
def test_a_playground_command_is_understood(command: str) -> None:
    arguments = shlex.split(command.partition("-m playground")[2])
    assert build_playground_parser().parse_args(arguments).service.startswith("http")


@pytest.mark.parametrize("command", [c for c in ALL if re.match("curl .*/generate ", c)])
def test_a_curl_command_sends_a_body_that_the_service_takes(command: str) -> None:
    arguments = shlex.split(command)
    body = GenerateRequest.model_validate_json(arguments[arguments.index("-d") + 1])
    assert body.prompt


def test_the_answer_in_the_http_page_has_the_schema_of_a_real_one() -> None:
    page = (ROOT / "docs/http.md").read_text("utf-8")
    answers = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    answer = next(text for text in answers if '"finish_reason"' in text)
    assert Answer.model_validate(json.loads(answer)).finish_reason == "length"


def test_every_relative_link_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
        missing = [link for link in links if not (page.parent / link).exists()]
        assert missing == [], page

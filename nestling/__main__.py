"""``nestling COMMAND``: every program of this project behind one name.

A command is a program that ``python -m`` starts too, and gets its arguments as they are: ``nestling
train --recipe tiny`` is ``python -m trainer --recipe tiny``.
"""

import dataclasses
import difflib
import importlib.util
import runpy
import sys
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Command:
    """What a name starts."""

    module: str
    """As ``python -m`` has it."""
    before: tuple[str, ...]
    """Arguments before those that were given."""
    help: str


COMMANDS = {
    "run": Command("nestling.run", (), "train a recipe and serve it while it learns"),
    "train": Command("trainer", (), "train a recipe; the same command resumes it"),
    "serve": Command("service", (), "serve the newest checkpoint of a volume over HTTP"),
    "play": Command("playground", (), "open a page to prompt a model and watch it learn"),
    "recipes": Command("trainer", ("recipes",), "list the recipes that come with nestling"),
    "describe": Command("trainer", ("describe",), "print a recipe's model, cost and schedule"),
    "fit": Command("trainer", ("fit",), "find the largest micro-batch that a GPU holds"),
    "plot": Command("trainer", ("plot",), "draw a run's curves"),
    "import": Command("trainer", ("import",), "copy a model from elsewhere into a volume"),
    "export": Command("trainer", ("export",), "write a checkpoint in another tool's format"),
    "push": Command("trainer", ("push",), "upload an export to a model hub"),
    "space": Command("trainer", ("space",), "write an export as a Gradio app"),
    "compare": Command("service", ("compare",), "continue a prompt with several checkpoints"),
    "capacity": Command("service", ("capacity",), "print what a model needs on this machine"),
    "settings": Command("service", ("settings",), "print each setting and where it comes from"),
}
EXTRAS = {"trainer": "trainer", "service": "service", "playground": "playground"}
"""The extra of the package that a program needs."""
PROBES = {"trainer": "yaml", "service": "uvicorn", "playground": "gradio"}
"""A library of that extra."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a command's program in this process; 2 for a name that is none."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in {"-h", "--help", "help"}:
        sys.stdout.write(usage())
        return 0 if given else 2
    command = COMMANDS.get(given[0])
    if command is None:
        near = difflib.get_close_matches(given[0], COMMANDS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        sys.stderr.write(f"nestling: no command {given[0]!r}{meant} `nestling --help` lists them\n")
        return 2
    if missing := missing_extra(command.module):
        sys.stderr.write(f"nestling: install it first: pip install 'nestling[{missing}]'\n")
        return 2
    sys.argv = [f"nestling {given[0]}", *command.before, *given[1:]]
    runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    return 0


def missing_extra(module: str) -> str | None:
    """The extra that has to be installed before a program can run, if one has to."""
    programs = ["trainer", "service"] if module == "nestling.run" else [module]
    missing = [EXTRAS[one] for one in programs if importlib.util.find_spec(PROBES[one]) is None]
    return ",".join(missing) or None


def usage() -> str:
    """What ``nestling --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: nestling COMMAND [OPTIONS]",
            "",
            "Train a small language model and serve it while it learns.",
            "",
            *lines,
            "",
            "`nestling COMMAND --help` lists a command's options. Begin with `nestling run`.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

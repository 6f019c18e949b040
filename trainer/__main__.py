"""``python -m trainer``: parse, build, run; see ``trainer.options`` for what can be asked.

Signals are listened to before anything heavy is imported, so that Ctrl-C ends even the first
seconds quietly. Exit status: 0 complete, interrupted or stopped at ``--steps``; 1 diverged;
2 something that the caller can put right, in one line.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lm.machine import surroundings
from lm.machine.threads import Roots
from trainer import options
from trainer.run.interrupt import Interrupt

if TYPE_CHECKING:
    from trainer.recipe.schema import Recipe
    from trainer.report.events import Listener


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "describe": _describe,
        "export": _export,
        "fit": _fit,
        "import": _import,
        "plot": _plot,
        "push": _push,
        "recipes": _recipes,
        "space": _space,
    }
    command = commands.get(arguments[0]) if arguments else None
    try:
        if command is not None:
            return command(arguments[1:])
        return _train(options.parse_train(arguments))
    except (ValueError, OSError) as error:
        return _fail(error, status=2)


def _train(call: options.TrainOptions) -> int:
    interrupt = Interrupt()
    with interrupt.listen():
        if call.nice:
            os.nice(call.nice)

        import torch
        from rich.console import Console

        from lm.machine.cores import usable_cores
        from lm.volume import run_directory
        from trainer.recipe.changes import Amendment
        from trainer.run import assemble as run
        from trainer.run.optimizer_steps import Diverged

        threads = call.threads or usable_cores()
        if call.threads is not None or threads < torch.get_num_threads():
            torch.set_num_threads(threads)  # PyTorch does not know a control group's quota
        recipe = _recipe(call.recipe, call.overrides, corpus=call.corpus, smoke=call.smoke)
        run_dir = run_directory(call.volume, recipe.name if call.run is None else call.run)
        try:
            with _watching(call, run_dir, interrupt.roots) as listeners:
                run.train(
                    recipe,
                    run_dir,
                    device=call.device,
                    last_step=call.last_step,
                    amendment=Amendment(
                        extend_steps=call.extend_steps,
                        lr=call.lr,
                        force_recipe=call.force_recipe,
                        accept_data=call.accept_data,
                    ),
                    interrupt=interrupt,
                    console=Console(stderr=True),
                    listeners=listeners,
                )
        except Diverged as error:
            return _fail(error, status=1)
    return 0


@contextlib.contextmanager
def _watching(
    call: options.TrainOptions, run_dir: Path, roots: Roots
) -> "Iterator[tuple[Listener, ...]]":
    """What a caller asked for beside log and journal."""
    listeners: list[Listener] = []
    with contextlib.ExitStack() as stack:
        if call.metrics_port is not None:
            from trainer.report import metrics

            exported = metrics.Metrics()
            stack.enter_context(
                metrics.serve(exported, call.metrics_host, call.metrics_port, roots)
            )
            listeners.append(exported)
        if call.tensorboard:
            from trainer.report.tensorboard import TensorBoard

            listeners.append(stack.enter_context(contextlib.closing(TensorBoard(run_dir))))
        yield tuple(listeners)


def _recipe(
    name: str, overrides: Iterable[str], *, corpus: str | None = None, smoke: bool = False
) -> "Recipe":
    """The recipe of a call; ``--set`` has the last word."""
    from trainer.data.datasets import with_corpus
    from trainer.recipe.recipes import load_recipe, override
    from trainer.recipe.smoke import scaled_down

    recipe = load_recipe(name)
    if corpus is not None:
        recipe = with_corpus(recipe, corpus)
    return override(scaled_down(recipe) if smoke else recipe, overrides)


def _describe(arguments: Sequence[str]) -> int:
    call = options.describe_parser().parse_args(arguments)
    from trainer.recipe.describe import print_description

    print_description(_recipe(call.recipe, call.set, smoke=call.smoke))
    return 0


def _export(arguments: Sequence[str]) -> int:
    from trainer.convert.exporting.__main__ import main as export_main

    return export_main(arguments)


def _fit(arguments: Sequence[str]) -> int:
    # As ``fit RECIPE``, too.
    named = [] if not arguments or arguments[0].startswith("-") else ["--recipe"]
    call = options.fit_parser().parse_args([*named, *arguments])
    from rich.console import Console

    from lm.model.device import pick_device
    from trainer.fit import fit

    recipe = _recipe(call.recipe, call.set, smoke=call.smoke)
    fit(recipe, pick_device(call.device), Console())
    return 0


def _import(arguments: Sequence[str]) -> int:
    from trainer.convert.importing.__main__ import main as import_main

    return import_main(arguments)


def _plot(arguments: Sequence[str]) -> int:
    call = options.plot_parser().parse_args(arguments)
    from trainer.report.plot import plot

    output = call.output or call.run_dir / "curves.png"
    plot(call.run_dir, output)
    sys.stdout.write(f"{output}\n")
    return 0


def _push(arguments: Sequence[str]) -> int:
    from trainer.convert.hub.__main__ import main as push_main

    return push_main(arguments)


def _recipes(arguments: Sequence[str]) -> int:
    options.recipes_parser().parse_args(arguments)
    from trainer.recipe.describe import print_recipes

    print_recipes()
    return 0


def _space(arguments: Sequence[str]) -> int:
    from trainer.convert.space.space import main as space_main

    return space_main(arguments)


def _fail(error: Exception, *, status: int) -> int:
    message = " ".join(str(error).split())
    sys.stderr.write(f"trainer: error: {message}\n")
    return status


if __name__ == "__main__":
    surroundings.prepare()
    sys.exit(main())

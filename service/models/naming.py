"""What clients may call a checkpoint, and which steps of the volume that can mean.

``run@500`` is that step; ``run`` and ``run@latest`` the newest good one of a run; ``run@best`` the
one with the lowest validation loss; ``latest`` and ``best`` are those of the followed run.
"""

from collections.abc import Callable, Sequence

from lm.volume import Step
from lm.volume.read import by_loss
from service.errors import UnknownModel
from service.excerpts import excerpt
from service.models.catalog import Catalog

LATEST = "latest"
BEST = "best"
PLACEHOLDERS = ("dummy", "tgi")
"""What Hugging Face's clients send where no model is named; nothing, unless a run is called so."""
MAX_NAMES_IN_MESSAGE = 12


def candidates(catalog: Catalog, name: str, followed: str | None) -> list[Step]:
    """Complete steps that a name can mean, the preferred one first.

    Raises ``UnknownModel`` naming what exists if there is none.
    """
    run, which = _split(catalog, name, followed)
    steps = () if run is None else catalog.survey(run).steps
    if which == LATEST:
        found = list(reversed(steps))
    elif which == BEST:
        found = by_loss(steps)
    else:
        found = [step for step in steps if str(step.number) == which]
    if not found:
        raise UnknownModel(_unknown(catalog, name, run, steps), param="model")
    return found


def names(
    catalog: Catalog, followed: str | None, is_good: Callable[[Step], bool]
) -> dict[str, Step]:
    """Every name that means a good step now, with that step."""
    named: dict[str, Step] = {}
    for run, survey in catalog.surveys():
        steps = [step for step in survey.steps if is_good(step)]
        if not steps:
            continue
        meant = {LATEST: steps[-1]} | dict(zip([BEST], by_loss(steps), strict=False))
        if run == followed:
            named |= meant
        named |= {run: meant[LATEST]} | {f"{run}@{which}": step for which, step in meant.items()}
        named |= {step.name: step for step in steps}
    return named


def _split(catalog: Catalog, name: str, followed: str | None) -> tuple[str | None, str]:
    """Run and which of its steps; the run is one of the volume's, never a path of the client's."""
    if name in (LATEST, BEST):
        return followed, name
    runs = catalog.runs()
    if name in runs:
        return name, LATEST
    run, _, which = name.rpartition("@")
    return (run if run in runs else None), which


def _unknown(catalog: Catalog, name: str, run: str | None, steps: Sequence[Step]) -> str:
    if run is None:
        return f"no model {excerpt(name)!r}; there are {_few(catalog.runs()) or 'none yet'}"
    return (
        f"no model {excerpt(name)!r}: the volume does not hold it, or no longer; of run {run} "
        f"there are {_few([step.name for step in reversed(steps)]) or 'none yet'}"
    )


def _few(all_names: list[str]) -> str:
    rest = len(all_names) - MAX_NAMES_IN_MESSAGE
    shown = ", ".join(all_names[:MAX_NAMES_IN_MESSAGE])
    return f"{shown} and {rest} more" if rest > 0 else shown

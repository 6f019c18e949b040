"""The recipes that come with nestling, one YAML file each, and how one is found and changed.

What a recipe may hold is ``trainer.recipe.schema``.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.recipe import yaml as strict_yaml
from trainer.recipe.schema import Recipe

_SUFFIX = ".yaml"


def list_recipes() -> list[str]:
    """Names of the recipes that come with nestling, sorted."""
    return sorted(path.stem for path in Path(__file__).parent.glob(f"*{_SUFFIX}"))


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by its name, or from a path that ends in ``.yaml``.

    Raises ``ValueError`` if there is none, or with the file and the first fault in it.
    """
    path = Path(name_or_path)
    if path.suffix != _SUFFIX:
        names = list_recipes()
        if name_or_path not in names:
            near = difflib.get_close_matches(name_or_path, names, n=1, cutoff=0.0)
            raise ValueError(f"no recipe {name_or_path!r}; did you mean {near[0]!r}?")
        path = Path(__file__).parent / f"{name_or_path}{_SUFFIX}"
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path}: not UTF-8 text") from error
    try:
        return Recipe.from_yaml(text)
    except ValueError as error:
        raise ValueError(f"recipe {path}: {error}") from error


def override(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """A recipe with keys replaced, as ``optimizer.lr=1e-3`` or ``phases.0.steps=100``.

    Values are YAML. Raises ``ValueError`` for an unknown key or a value that does not fit; the
    values are checked together, after the last one.
    """
    values = recipe.to_dict()
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ValueError(f"{assignment!r} is not of the form KEY=VALUE")
        _assign(values, path, strict_yaml.parse_value(text))
    return Recipe.from_dict(values)


def _assign(values: Any, path: str, value: Any) -> None:
    """Set what a dotted path names; keys that a section lacks are left for the recipe to refuse."""
    *parents, last = path.split(".")
    section = values
    for part in parents:
        section = _child(section, part, path)
    if isinstance(section, dict):
        section[last] = value
    else:
        _child(section, last, path)  # refuse what is not there
        section[int(last)] = value


def _child(section: Any, part: str, path: str) -> Any:
    if isinstance(section, dict) and part in section:
        return section[part]
    if isinstance(section, list) and part.isdecimal() and int(part) < len(section):
        return section[int(part)]
    known = list(section) if isinstance(section, dict) else []
    near = difflib.get_close_matches(part, known, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{path}: there is no {part!r}{hint}")

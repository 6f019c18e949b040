"""How settings are called in the environment and in the secrets directory.

A misspelt variable or file stops the start by name instead of being ignored.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path

from service.settings.keys import Keyring
from service.settings.kubernetes import is_service_variable
from service.settings.schema import ENV_PREFIX, Settings


def is_secret(name: str) -> bool:
    """Whether a setting's value must not be shown."""
    return Keyring.__name__ in str(Settings.model_fields[name].annotation)


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return f"{ENV_PREFIX}{name.upper()}"


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Raise ``ValueError`` for a ``NESTLING_`` variable that names no setting."""
    known = {variable_of(name) for name in Settings.model_fields}
    for name in sorted(environment):
        if not name.startswith(ENV_PREFIX) or name in known:
            continue
        if is_service_variable(name, environment[name]):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"{name} is no setting; did you mean {near}?")


def secret_files(directory: Path) -> dict[str, Path]:
    """Files of the secrets directory that give settings, by setting.

    Raises ``ValueError`` for a ``nestling_…`` file that names no setting.
    """
    known = {variable_of(name).lower(): name for name in Settings.model_fields}
    files = {}
    for path in sorted(directory.glob(f"{ENV_PREFIX.lower()}*")):
        if path.name not in known:
            near = difflib.get_close_matches(path.name, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{path} is no setting; did you mean {near}?")
        files[known[path.name]] = path
    return files

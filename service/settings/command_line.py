"""The command line of the service: one option a setting."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from service.settings.names import is_secret, refuse_unknown_variables, secret_files, variable_of
from service.settings.schema import ENV_PREFIX, Settings

DESCRIPTION = """Serve the newest good checkpoint of a volume over HTTP, and each newer one as it
appears. Starts with an empty volume too: /readyz says 503 until the first checkpoint is there."""

EPILOG = f"""Every option can be given as {ENV_PREFIX}OPTION in the environment as well, keys as
files too (see secrets_dir). `python -m service settings` says what holds, and by what.

examples:
  python -m service --volume volume --port 8000
  python -m service --model hub:HuggingFaceTB/SmolLM2-135M-Instruct
  python -m service compare --prompt "First Citizen:" --steps 100,500,latest
  curl -N localhost:8000/generate -H 'content-type: application/json' \\
    -d '{{"prompt": "First Citizen:", "stream": true}}'
"""


def build_parser() -> argparse.ArgumentParser:
    """One option a setting."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        allow_abbrev=False,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f" [{field.default}]"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            metavar="VALUE",
            help=f"{field.description}{default}",
        )
    return parser


def read_options(arguments: Sequence[str] | None) -> dict[str, str]:
    """The settings that the command line gives, as text."""
    options = vars(build_parser().parse_args(arguments))
    return {name: value for name, value in options.items() if value is not None}


def read_secrets(options: Mapping[str, str]) -> dict[str, Path]:
    """Files that give a setting because nothing stronger does, by setting.

    Raises ``ValueError`` for one that names no setting.
    """
    default = Settings.model_fields["secrets_dir"].default
    directory = options.get("secrets_dir") or os.environ.get(variable_of("secrets_dir"), default)
    return {
        name: path
        for name, path in secret_files(Path(directory)).items()
        if name not in options and variable_of(name) not in os.environ
    }


def read_settings(arguments: Sequence[str] | None) -> Settings:
    """Settings from every source; raises ``ValueError`` in one line."""
    options = read_options(arguments)
    refuse_unknown_variables(os.environ)
    secrets = read_secrets(options)
    files = {name: _content(path) for name, path in secrets.items()}
    try:
        return Settings(**files, **options)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ValueError(_in_one_line(error, secrets)) from error


def _content(path: Path) -> str:
    """What a file says of a setting; raises ``ValueError`` naming it if that is no text."""
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}: no UTF-8 text") from error


def _in_one_line(error: ValidationError, secrets: Mapping[str, Path]) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # about several settings; the message names them
        return message
    name = ".".join(str(part) for part in first["loc"])
    if first["loc"][0] in secrets:  # whatever it is of, a secret may be in the wrong file
        return f"{secrets[str(first['loc'][0])]}: {name}: {message}"
    got = "" if is_secret(str(first["loc"][0])) else f", got {first['input']!r}"
    return f"{name}: {message}{got}"

"""The command line of the service: one option a setting."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from service.settings import ENV_PREFIX, Settings, refuse_unknown_variables

DESCRIPTION = """Serve the newest good checkpoint of a volume over HTTP, and each newer one as it
appears. Starts with an empty volume too: /readyz says 503 until the first checkpoint is there."""

EPILOG = f"""Every option can be given as {ENV_PREFIX}OPTION in the environment as well.

examples:
  python -m service --volume volume --port 8000
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
        default = "" if field.default is None else f" [{field.default}]"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            metavar="VALUE",
            help=f"{field.description}{default}",
        )
    return parser


def read_settings(arguments: Sequence[str] | None) -> Settings:
    """Settings from the command line and the environment; raises ``ValueError`` in one line."""
    given: dict[str, Any] = {
        name: value
        for name, value in vars(build_parser().parse_args(arguments)).items()
        if value is not None
    }
    refuse_unknown_variables(os.environ)
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ValueError(_in_one_line(error)) from error


def _in_one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    if not first["loc"]:  # about several settings; the message names them
        return first["msg"].removeprefix("Value error, ")
    name = ".".join(str(part) for part in first["loc"])
    return f"{name}: {first['msg']}, got {first['input']!r}"

"""``python -m playground``: serves the page over a running service."""

import argparse
import html
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from playground import password

KEY_VARIABLE = "NESTLING_PLAYGROUND_API_KEY"
PLACES_EVERY_S = 1.0
"""People who wait hear their place so often; by default only when an answer begins, so that one
who leaves the queue would shorten it unseen."""
EPILOG = f"""\
examples:
  python -m playground
      the page on http://127.0.0.1:7860, over a service on http://127.0.0.1:8000
  python -m playground --service http://service:8000 --host 0.0.0.0 --port 7860

A service with keys is asked with the one in --api-key-file, else in the environment variable
{KEY_VARIABLE}. Whoever uses the page spends that key:
on more than 127.0.0.1, give the page a password.
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the page."""
    parser = argparse.ArgumentParser(
        prog="python -m playground",
        description="Serve a page to prompt the model and to watch it learn.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--service",
        default="http://127.0.0.1:8000",
        metavar="URL",
        help="of the service (default: http://127.0.0.1:8000)",
    )
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="with a key of the service; of several, as its api_keys has them, the first is taken",
    )
    parser.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="with PASSWORD or USER:PASSWORD, which the page then asks for; else the one in "
        f"{password.VARIABLE}, if any (user without one: {password.USER})",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=8,
        metavar="N",
        help="answers at once; further people see their place in the queue (default: 8)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; 2 for what makes no sense."""
    call = build_parser().parse_args(arguments)
    if not call.service.startswith(("http://", "https://")):
        sys.stderr.write(f"playground: --service {call.service!r} is no http:// address\n")
        return 2
    try:
        api_key = read_key(call.api_key_file)
    except ValueError as error:
        sys.stderr.write(f"playground: --api-key-file {error}\n")
        return 2
    try:
        wanted = password.read_password(call.password_file)
    except ValueError as error:
        sys.stderr.write(f"playground: --password-file {error}\n")
        return 2
    strangers = password.warning(
        call.host, has_key=api_key is not None, has_password=wanted is not None
    )
    if strangers is not None:
        sys.stderr.write(f"{strangers}\n")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from playground.actions import Actions
    from playground.client import Service
    from playground.page import CSS, THEME, build_page

    service = Service(url=call.service, api_key=api_key)
    page = build_page(Actions(service)).queue(
        status_update_rate=PLACES_EVERY_S, default_concurrency_limit=call.concurrency
    )
    page.launch(
        server_name=call.host,
        server_port=call.port,
        theme=THEME,
        css=CSS,
        show_error=True,
        footer_links=[],
        auth=None if wanted is None else password.check_of(wanted),
        auth_message=None if wanted is None else f"The user is {html.escape(wanted[0])}.",
    )
    return 0


def read_key(path: Path | None) -> str | None:
    """The first key of a file, else the environment's; ``ValueError`` for a file without one."""
    if path is None:
        return os.environ.get(KEY_VARIABLE)
    try:
        keys = path.read_text("utf-8").replace(",", " ").split()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if not keys:
        raise ValueError(f"{path}: it has no key")
    return keys[0]


if __name__ == "__main__":
    sys.exit(main())

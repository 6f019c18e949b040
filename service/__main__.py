"""``python -m service``: reads settings, serves, exits 0 after a signal; or helps.

Signals are listened to before anything heavy is imported, so that Ctrl-C ends even the first
seconds quietly; the port is bound before anything is loaded.
"""

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm.machine import surroundings
from service import signals
from service.http.sockets import CannotListen, listen
from service.observe import memory

if TYPE_CHECKING:
    from service.settings.schema import Settings


FAILED = 1
NO_THREAD = "can't start new thread"
"""What Python says where the system allows no more."""


def program(arguments: Sequence[str] | None = None) -> int:
    """``main`` in a process of its own, whatever it was started with."""
    signals.listen_before_all()
    surroundings.prepare()
    memory.have_few_arenas()
    status = main(arguments)
    if status == FAILED:  # libraries that got half of their threads crash while Python ends
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service or a command; 0 at its end, 1 without its port or threads, 2 for no sense."""
    try:
        with signals.ending_quietly():
            return _run(arguments)
    except (ValueError, CannotListen) as error:
        sys.stderr.write(f"service: {error}\n")
        return FAILED if isinstance(error, CannotListen) else 2
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        sys.stderr.write(
            "service: the system allows no more threads (ulimit -u, or a container's limit of "
            "processes); ask for fewer with --threads\n"
        )
        return FAILED
    finally:
        gc.enable()


def _run(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["compare"]:
        from service.compare import main as compare

        return compare(given[1:])
    if given[:1] == ["settings"]:
        from service.settings.settings_table import main as show_settings

        return show_settings(given[1:])
    if given[:1] == ["capacity"]:
        from service.capacity import main as show_capacity

        return show_capacity(given[1:])

    gc.disable()  # what imports make, stays: looking through it is a tenth of the start

    from service.settings.command_line import read_settings

    settings = read_settings(arguments)

    from service.observe import logs

    logs.configure(settings.log_level, settings.log_format)

    from service.processes.choice import num_http_workers, with_usual_slots

    settings = with_usual_slots(settings)
    if num_workers := num_http_workers(settings):
        from service.processes.supervisor import supervise

        return supervise(settings, num_workers)

    return _serve(settings)


def _serve(settings: "Settings") -> int:
    """Engine and HTTP in this process."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(one) for one in listen(settings.host, settings.port)]

        from service.models.loading.published_model import with_volume
        from service.runtime import Runtime

        served = held.enter_context(with_volume(settings))
        runtime = Runtime(served)
        runtime.load()
        try:
            from service.http.app import app_over
            from service.http.server import serve

            app = app_over(runtime)
            gc.freeze()  # nor will later collections look at what is there now
            gc.enable()
            serve(app, served, sockets)
        finally:
            runtime.watcher.stop()  # for who did not come as far as a lifespan
        if runtime.watcher.is_running:  # a volume hangs, and with it whoever waits for the thread
            logging.shutdown()
            os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(program())

"""Whether the engine has a process of its own, and how many HTTP processes there are."""

import functools
import os

from lm.machine.cores import usable_cores
from service.settings.schema import GPU_SLOTS, Settings

MAX_AUTO_WORKERS = 4


def num_http_workers(settings: Settings) -> int:
    """HTTP processes over one engine's process; 0 where engine and HTTP share a process.

    Raises ``ValueError`` for settings that do not go together.
    """
    if settings.engine == "thread" or (settings.engine == "auto" and not _is_on_gpu(settings)):
        if settings.http_workers not in (None, 1):
            raise ValueError("http_workers above 1 need engine=process")
        return 0
    if settings.http_workers is not None:
        return settings.http_workers
    if settings.engine == "process" and not _is_on_gpu(settings):
        return 1
    return max(1, min(MAX_AUTO_WORKERS, usable_cores() - 2))


def with_usual_slots(settings: Settings) -> Settings:
    """The same settings, with the number of slots that is usual for their device."""
    if settings.num_slots is not None or not _is_on_gpu(settings):
        return settings
    slots = GPU_SLOTS
    if settings.max_step_tokens is not None:
        slots = min(slots, settings.max_step_tokens - 1)
    return settings.model_copy(update={"num_slots": slots})


def _is_on_gpu(settings: Settings) -> bool:
    """Asked without making this process one that uses the device: it is going to fork."""
    if settings.device == "cpu":
        return False
    import torch

    if torch.version.cuda is None:
        return False
    return settings.device.startswith("cuda") or _sees_cuda()


@functools.cache  # each child sets the driver up anew
def _sees_cuda() -> bool:
    """Asked in a child, since a process whose CUDA driver is set up has no children with one."""
    import torch

    pid = os.fork()
    if not pid:
        os._exit(0 if torch.cuda.is_available() else 1)
    _, status = os.waitpid(pid, 0)
    return status == 0

"""The volume: how checkpoints pass from a trainer to its readers, through any filesystem.

A step is a directory that becomes visible by one rename after everything in it is on disk, its
``manifest.json`` written last. ``manifest`` says what a step is, ``publish`` writes one,
``read`` finds and opens them, ``verify`` checks one, ``retain`` says which stay, ``lock`` keeps
writers apart. ``docs/volume.md`` is the specification.
"""

from lm.plain_file import open_plain
from lm.volume.content import (
    load_model_config,
    load_side_files,
    load_tokenizer,
    load_weights,
    model_files,
    read_file,
)
from lm.volume.errors import (
    StepDamaged,
    StepUnreadable,
    StepVanished,
    UnknownFormat,
    VolumeError,
    WriterBusy,
)
from lm.volume.lock import RunLock
from lm.volume.manifest import MANIFEST_FILE, Manifest, Progress, StepDetails, step_name
from lm.volume.prune import prune, sweep
from lm.volume.publish import publish
from lm.volume.read import (
    OpenFile,
    Step,
    best_step,
    list_runs,
    list_steps,
    newest_step,
    open_step,
)
from lm.volume.retention import Retention, steps_to_keep
from lm.volume.run_names import as_run_name, run_directory
from lm.volume.verify import newest_sound_step, verify

__all__ = [
    "MANIFEST_FILE",
    "Manifest",
    "OpenFile",
    "Progress",
    "Retention",
    "RunLock",
    "Step",
    "StepDamaged",
    "StepDetails",
    "StepUnreadable",
    "StepVanished",
    "UnknownFormat",
    "VolumeError",
    "WriterBusy",
    "as_run_name",
    "best_step",
    "list_runs",
    "list_steps",
    "load_model_config",
    "load_side_files",
    "load_tokenizer",
    "load_weights",
    "model_files",
    "newest_sound_step",
    "newest_step",
    "open_plain",
    "open_step",
    "prune",
    "publish",
    "read_file",
    "run_directory",
    "step_name",
    "steps_to_keep",
    "sweep",
    "verify",
]

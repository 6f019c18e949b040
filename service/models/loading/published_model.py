"""A model that others made, served without a trainer: as the one step of a volume of its own.

Everything behind the volume (hashes, gate, names, metrics) is then as for any other model. The
volume is a temporary directory with a copy of the weights, gone when the service ends.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from lm.huggingface import fetch, hub, read_directory
from lm.volume import Progress, RunLock, Step, StepDetails, as_run_name, model_files, publish
from service.settings.schema import Settings
from service.temporary_directory import scratch_directory

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def with_volume(settings: Settings) -> Iterator[Settings]:
    """Settings that name a volume: their own or, for ``model``, a temporary one that holds it.

    Raises ``ValueError`` if the model cannot be had, read or computed, or if a volume or a run is
    named beside it.
    """
    if settings.model is None:
        yield settings
        return
    if beside := settings.model_fields_set & {"volume", "run"}:
        raise ValueError(f"model is served instead of a volume: leave out {', '.join(beside)}")
    with scratch_directory("model") as directory:
        step = publish_model(settings.model, directory)
        logger.info("%s is %s", settings.model, step.name)
        yield settings.model_copy(update={"volume": directory, "run": step.manifest.run})


def publish_model(source: str, volume: Path) -> Step:
    """Copy a model into a volume as step 0 of a run with its name."""
    is_remote = source.startswith(hub.PREFIX)
    directory = fetch(source) if is_remote else Path(source).expanduser()
    if not directory.is_dir():
        raise ValueError(f"model {source}: neither a directory nor {hub.PREFIX}OWNER/NAME")
    foreign = read_directory(directory)
    name = source.removeprefix(hub.PREFIX).rpartition("/")[2] if is_remote else ""
    run_dir = volume / as_run_name(name or directory.resolve().name)
    details = StepDetails(
        model_config=foreign.config,
        tokenizer_fingerprint=foreign.tokenizer.fingerprint,
        progress=Progress(micro_step=0, optimizer_step=0, tokens_seen=0),
        versions={"imported_from": source},
    )
    with RunLock(run_dir):
        files = model_files(foreign.weights, foreign.config, foreign.tokenizer)
        return publish(run_dir, 0, files, details)

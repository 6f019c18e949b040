"""What can be wrong with a volume.

VolumeError
├── StepDamaged     a file is missing, has another size or other bytes than the manifest says
├── StepUnreadable  a file cannot be read just now: the disk or the network failed
├── StepVanished    the step was pruned while it was read; take the next one
├── UnknownFormat   written by a version of nestling that this one cannot read
└── WriterBusy      another process writes to this run
"""


class VolumeError(ValueError):
    """Something is wrong with the volume; the message says what and where."""

    reason = "unreadable"
    """A short word for metrics and lists."""


class StepDamaged(VolumeError):
    """A file is missing, has another size or other bytes than the manifest says."""

    reason = "damaged"


class StepUnreadable(VolumeError):
    """A file is there and cannot be read just now; it may be later."""

    reason = "read_error"


class StepVanished(VolumeError):
    """The step was pruned while it was read."""

    reason = "vanished"


class UnknownFormat(VolumeError):
    """The manifest's format version is not one that this program reads."""

    reason = "unknown_format"


class WriterBusy(VolumeError):
    """Another process writes to this run."""

    reason = "locked"

"""Faults of one request, told apart from those of the device and of the process.

Whatever fails for one row of a step ends that row's request alone. A panic of a Rust library is no
``Exception``, and is such a fault all the same.
"""

import logging

import torch

from service.engine.request import Finished, FinishReason, RequestRefused

logger = logging.getLogger(__name__)


def is_lasting(error: BaseException) -> bool:
    """Whether a device has failed for good, so that no later step can succeed.

    CUDA keeps an error of a kernel until the process ends; running out of memory is none of them.
    """
    return isinstance(error, torch.AcceleratorError) or "Triton Error [CUDA]" in str(error)


def must_pass(error: BaseException) -> bool:
    """Whether an error is of more than one request: of the device, or the end of the program."""
    return is_lasting(error) or isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


def failed(request_id: str, error: BaseException) -> Finished:
    """The end of a request by an error; its text goes to the log alone, but for a refusal's."""
    if isinstance(error, RequestRefused):
        return Finished(request_id, FinishReason.ERROR, message=str(error), is_refusal=True)
    logger.error("a request failed alone", exc_info=error)
    message = f"{type(error).__name__}, see the log"
    return Finished(request_id, FinishReason.ERROR, message=message)

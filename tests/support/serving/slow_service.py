"""``python slow_service.py SECONDS ARGUMENTS…``: the service with steps of at least so long."""

import sys
import time

from torch import Tensor

from service.__main__ import program
from service.engine.pytorch.runner import Runner
from service.engine.scheduling.plan import Plan

compute = Runner.run


def run_slowly(self: Runner, plan: Plan) -> Tensor:
    """Compute a step and rest."""
    logits = compute(self, plan)
    time.sleep(float(sys.argv[1]))
    return logits


Runner.run = run_slowly  # type: ignore[method-assign]
sys.exit(program(sys.argv[2:]))

"""Computes a plan whose step fails in parts, so that who brings it down ends alone."""

from collections.abc import Callable

from service.engine.pytorch.runner import StepOutput
from service.engine.request_faults import must_pass
from service.engine.scheduling.plan import Plan

MOST_FAULTS = 3
"""Where so many sequences have failed alone and no part was computed, the step itself is at fault:
what is left fails with it, instead of one by one for as long as that takes."""

Computed = tuple[Plan, StepOutput | BaseException]


def compute(run: Callable[[Plan], StepOutput], plan: Plan) -> list[Computed]:
    """A plan's output; where it fails, those of its halves, of their halves, and so on.

    A step writes what it computes to fixed places, so that computing it again changes nothing.
    Raises what concerns more than a request; see ``faults``.
    """
    results: list[Computed] = []
    parts = [plan]
    num_faults, fault = 0, None
    while parts:
        part = parts.pop()
        if fault is not None and num_faults >= MOST_FAULTS:
            results.append((part, fault))
            continue
        try:
            results.append((part, run(part)))
            num_faults = -len(plan.chunks)  # it is not the step
        except BaseException as error:
            if must_pass(error):
                raise
            chunks = part.chunks
            if len(chunks) == 1:
                num_faults, fault = num_faults + 1, error
                results.append((part, error))
                continue
            half = len(chunks) // 2
            parts += [Plan(chunks[half:], ()), Plan(chunks[:half], ())]
    return results

"""How large a template's operation makes its result, told before it is done.

Each rule bounds one operation from above, in characters; ``Budget.foresee`` refuses what is too
large. Operations without a rule give at most a few times what they are given.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm.template.budget import Budget, TemplateExceeds

MAX_WIDTH = 10_000
"""Of a padded field, and of a number in a format: no text is laid out wider."""
MAX_BITS = 1 << 16
_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")
_SPEC_NUMBER = re.compile(r"[:.][^{}]*?(\d{5,})")


def check_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Bound ``+``, ``*``, ``**`` and ``%`` before they are computed."""
    if operator == "%" and isinstance(left, str):
        check_format(budget, left, right)
    elif isinstance(left, int | float) and isinstance(right, int | float):
        _check_numbers(operator, left, right)
    elif operator == "*":
        value, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int):
            budget.foresee(budget.weigh(value) * max(times, 0))


def check_format(budget: Budget, form: str, values: object) -> None:
    """Bound ``form % values``."""
    fields = _PERCENT.findall(form)
    numbers = [number for field in fields for number in field if number]
    _check_widths([int(number) for number in numbers if number != "*"])
    if "*" in numbers:
        _check_widths(_integers(values))
    budget.foresee(len(form) + len(fields) * budget.weigh(values))


def check_method(
    budget: Budget, owner: str | bytes, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Bound a call of a string's method."""
    budget.work(len(owner))
    given = [*args, *kwargs.values()]
    if name in {"center", "ljust", "rjust", "zfill", "expandtabs"}:
        _check_widths(_integers(given))
        budget.foresee(len(owner) + (MAX_WIDTH * owner.count("\t") if name == "expandtabs" else 0))  # type: ignore[arg-type]
    elif name == "replace" and len(given) > 1:
        budget.foresee(_replaced(owner, given[0], given[1]))
    elif name in {"format", "format_map"} and isinstance(owner, str):
        _check_widths([int(number) for number in _SPEC_NUMBER.findall(owner)])
        if re.search(r":[^{}]*\{", owner):
            _check_widths(_integers(given))
        budget.foresee(len(owner) + owner.count("{") * budget.weigh(given))
    elif name == "translate":
        budget.foresee(len(owner) * max(1, budget.weigh(given)))
    elif name == "join" and given:
        budget.foresee(budget.weigh(given[0]) + len(owner) * _length(given[0]))


def check_filter(
    budget: Budget, name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Bound a filter's result."""
    rule = _FILTERS.get(name)
    if rule is not None:
        rule(budget, value, [*args, *kwargs.values()])


def _padded(budget: Budget, value: Any, given: list[Any]) -> None:
    """Each line of the value with one of the arguments, or so many spaces, before it."""
    _check_widths(_integers(given))
    lines = 1 + (value.count("\n") if isinstance(value, str) else 0)
    width = max([*_integers(given), *(len(one) for one in given if isinstance(one, str)), 80])
    budget.foresee(budget.weigh(value) + lines * width)


def _wrapped(budget: Budget, value: Any, given: list[Any]) -> None:
    longest = max((len(one) for one in given if isinstance(one, str)), default=1)
    budget.foresee(budget.weigh(value) * (1 + longest))


def _replacing(budget: Budget, value: Any, given: list[Any]) -> None:
    if len(given) > 1:
        budget.foresee(_replaced(str(value) if _is_small(budget, value) else "", *given[:2]))


def _joining(budget: Budget, value: Any, given: list[Any]) -> None:
    between = max((len(one) for one in given if isinstance(one, str)), default=0)
    budget.foresee(budget.weigh(value) + between * _length(value))


def _written(budget: Budget, value: Any, given: list[Any]) -> None:
    """As JSON or indented text: each value on a line of its own, behind its indentation."""
    indent = max([4, *_integers(given), *(len(one) for one in given if isinstance(one, str))])
    _check_widths([100 * indent])
    budget.foresee(budget.weigh(value))


def _formatting(budget: Budget, value: Any, given: list[Any]) -> None:
    check_format(budget, str(value) if _is_small(budget, value) else "", given)


def _cutting(budget: Budget, value: Any, given: list[Any]) -> None:
    _check_widths(_integers(given))
    budget.work(_length(value))


def _adding(budget: Budget, value: Any, given: list[Any]) -> None:
    if any(isinstance(one, list | tuple) for one in given):
        budget.foresee(_length(value) * budget.weigh(value))


def _showing(budget: Budget, value: Any, given: list[Any]) -> None:
    del given
    budget.foresee(budget.weigh(value))


_FILTERS: Mapping[str, Callable[[Budget, Any, list[Any]], None]] = {
    **dict.fromkeys(("center", "indent", "truncate"), _padded),
    "wordwrap": _wrapped,
    "replace": _replacing,
    "join": _joining,
    **dict.fromkeys(("tojson", "pprint"), _written),
    "format": _formatting,
    **dict.fromkeys(("batch", "slice"), _cutting),
    "sum": _adding,
    **dict.fromkeys(
        ("string", "safe", "e", "escape", "forceescape", "upper", "lower", "title", "capitalize"),
        _showing,
    ),
    **dict.fromkeys(("trim", "striptags", "urlize", "urlencode", "xmlattr", "wordcount"), _showing),
}


def _is_small(budget: Budget, value: object) -> bool:
    """Whether a value may be written as text; raises ``TemplateExceeds`` if not."""
    budget.foresee(budget.weigh(value))
    return True


def _replaced(text: str | bytes, old: Any, new: Any) -> int:
    if not isinstance(old, str) or not isinstance(new, str) or not isinstance(text, str):
        return len(text)
    return len(text) + text.count(old) * max(0, len(new) - len(old))


def _length(value: object) -> int:
    return len(value) if hasattr(value, "__len__") else 1


def _integers(values: object) -> list[int]:
    listed = values if isinstance(values, list | tuple) else [values]
    if isinstance(values, Mapping):
        listed = list(values.values())
    flat = [one for value in listed for one in (value if isinstance(value, tuple) else [value])]
    return [one for one in flat if isinstance(one, int)]


def _check_widths(numbers: Sequence[int]) -> None:
    if any(number > MAX_WIDTH for number in numbers):
        raise TemplateExceeds(f"it lays text out wider than {MAX_WIDTH:,} characters")


def _check_numbers(operator: str, left: float, right: float) -> None:
    if not isinstance(left, int) or not isinstance(right, int):
        return
    bits = 0
    if operator == "*":
        bits = left.bit_length() + right.bit_length()
    elif operator == "**" and right > 0:
        bits = left.bit_length() * right if abs(left) > 1 else 1
    if bits > MAX_BITS:
        raise TemplateExceeds(f"it computes with numbers of more than {MAX_BITS:,} bits")

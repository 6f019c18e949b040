"""Jinja's immutable sandbox, in which everything that a template makes is counted.

What a template writes, computes, calls and filters passes ``Budget``. What Jinja does without
asking (``~``, lists and objects, turns of loops, plain text in them) is rewritten after parsing
into calls that ask. Nothing is computed while a template is compiled. What is written is the same
as without bounds.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import jinja2
import jinja2.nodes
import jinja2.visitor
from jinja2 import nodes
from jinja2.runtime import Context, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import _PassArg, pass_context

from lm.template import growth
from lm.template.budget import Budget, TemplateExceeds

MAX_SOURCE = 1 << 17
"""Characters of a template. Public ones have up to some 30,000; this many compile in seconds."""
_BUDGET = " budget"
"""Name of a variable that no template can spell, as the names of the filters below."""
_TURN, _MADE, _JOINED = " turn", " made", " joined"
_MAX_PIECES = 1 << 20


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates that ``render`` bounds."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, optimized=False, finalize=_written)
        self.globals.pop("lipsum")
        self.filters = _Filters(self.filters)
        self.filters[_TURN] = _turn
        self.filters[_MADE] = _made
        self.filters[_JOINED] = _joined

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MAX_SOURCE:
            raise TemplateExceeds(f"it is longer than {MAX_SOURCE:,} characters")
        parsed = super()._parse(source, name, filename)
        _Asking().visit(parsed)
        parsed.set_environment(self)
        return parsed

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what is not too large."""
        budget = context.parent[_BUDGET]
        if operator == "+" and type(left) is str and type(right) is str:  # most of what there is
            budget.spend(len(left) + len(right))
            return left + right
        growth.check_operator(budget, operator, left, right)
        return budget.spend_on(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call what gives nothing too large."""
        budget = _budget(__context)
        method = getattr(__obj, "__wrapped__", __obj)  # ``format`` comes wrapped
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes):
            name = method.__name__
            if name == "join" and args:
                args = (_listed(args[0]), *args[1:])
            growth.check_method(budget, owner, name, args, kwargs)
        elif isinstance(owner, int):
            growth.check_method(budget, "", "ljust", args, kwargs)  # of ``to_bytes``
        return budget.spend_on(super().call(__context, __obj, *args, **kwargs))


def render(template: jinja2.Template, variables: Mapping[str, Any], budget: Budget) -> str:
    """A template's text; raises ``TemplateExceeds``, or what its expressions do."""
    pieces: list[str] = []
    for piece in template.generate({**variables, _BUDGET: budget}):
        budget.spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


class _Filters(dict[str, Callable[..., Any]]):
    """Filters, each of which asks before and counts after."""

    def __init__(self, plain: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        for name, function in plain.items():
            self[name] = function

    def __setitem__(self, name: str, function: Callable[..., Any]) -> None:
        is_ours = name.startswith(" ")
        super().__setitem__(name, function if is_ours else _bounded(name, function))


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passed = _PassArg.from_obj(function)

    @pass_context
    def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(context)
        if name in {"join", "sum"}:
            value = _listed(value)
        growth.check_filter(budget, name, value, args, kwargs)
        match passed:
            case _PassArg.context:
                result = function(context, value, *args, **kwargs)
            case _PassArg.eval_context:
                result = function(context.eval_ctx, value, *args, **kwargs)
            case _PassArg.environment:
                result = function(context.environment, value, *args, **kwargs)
            case _:
                result = function(value, *args, **kwargs)
        return budget.spend_on(result)

    return bounded


class _Asking(jinja2.visitor.NodeTransformer):
    """Puts calls that ask into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  Jinja's names
        self.generic_visit(node)
        turn = nodes.ExprStmt(_asked(nodes.Const(None), _TURN, node.lineno), lineno=node.lineno)
        node.body.insert(0, turn)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        """Plain text counts like all other, wherever it is repeated from."""
        self.generic_visit(node)
        node.nodes = [
            nodes.Const(one.data, lineno=one.lineno) if isinstance(one, nodes.TemplateData) else one
            for one in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _asked(nodes.List(node.nodes, lineno=node.lineno), _JOINED, node.lineno)

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        is_stored = getattr(node, "ctx", "load") != "load"
        is_plain = all(isinstance(one, nodes.Const) for one in node.iter_child_nodes())
        return node if is_stored or is_plain else _asked(node, _MADE, node.lineno)

    visit_Tuple = visit_Dict = visit_List  # noqa: N815

    def visit_Compare(self, node: nodes.Expr) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _asked(node, _TURN, node.lineno)

    visit_Test = visit_Compare  # noqa: N815

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        is_part = isinstance(node.arg, nodes.Slice) and node.ctx == "load"
        return _asked(node, _MADE, node.lineno) if is_part else node


def _asked(node: nodes.Expr, name: str, lineno: int) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=lineno)


def _budget(context: Context) -> Budget:
    budget: Budget = context.parent[_BUDGET]
    return budget


def _listed(values: Any) -> Any:
    """What a generator gives, to be measured before it is joined."""
    if hasattr(values, "__len__") or not isinstance(values, Iterable):
        return values
    listed = list(islice(values, _MAX_PIECES + 1))
    if len(listed) > _MAX_PIECES:
        raise TemplateExceeds(f"it makes more than {_MAX_PIECES:,} pieces")
    return listed


@pass_context
def _written(context: Context, value: Any) -> Any:
    """What is written, wherever it goes to."""
    budget = context.parent[_BUDGET]
    if type(value) is str:
        budget.spend(len(value))
        return value
    return budget.spend_on(value)


@pass_context
def _turn(context: Context, value: Any) -> Any:
    context.parent[_BUDGET].work(0)
    return value


@pass_context
def _made(context: Context, value: Any) -> Any:
    return _budget(context).spend_on(value)


@pass_context
def _joined(context: Context, pieces: list[Any]) -> str:
    budget = _budget(context)
    budget.foresee(budget.weigh(pieces))
    joined = markup_join(pieces) if context.eval_ctx.autoescape else str_join(pieces)
    return str(budget.spend_on(joined)) if not context.eval_ctx.autoescape else joined

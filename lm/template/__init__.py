"""Chat templates are programs of a model's authors: they run in a sandbox, and within bounds.

``environment`` is transformers' immutable sandbox whose every operation that makes something is
counted; ``growth`` says how large a result will be before it is made; ``budget`` is what one
rendering may make and how long it may take.
"""

from lm.template.budget import Budget, TemplateExceeds
from lm.template.environment import BoundedEnvironment, render

__all__ = ["BoundedEnvironment", "Budget", "TemplateExceeds", "render"]

"""From messages to the text of a prompt: by the tokenizer's chat template, else by a plain one.

A template is a program of the model's authors; it runs in Jinja's immutable sandbox with the
helpers that transformers gives it, within the bounds of ``lm.template``. Special tokens that a
message spells out are recognised as such, as everywhere in this field: who must not be believed
should not be quoted bare.
"""

import datetime as dt
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime

from lm.template import BoundedEnvironment, Budget, TemplateExceeds, render
from lm.template.budget import weigh
from lm.text.tokenizer import Tokenizer
from lm.text.tokenizer_files import named_tokens

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] | trim }}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For base models: a play's lines, which a model that only ever read texts can go on with."""


MAX_SAID = 200
"""Characters of a template's own words that an error repeats."""
_OF_A_TEMPLATE = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError),
    *(AttributeError, ArithmeticError, RecursionError, SyntaxError, MemoryError),
)
"""What a template's own expressions can raise."""


def chat_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """Text that ends where the assistant's answer begins.

    A part of a message that is ``None`` is left out, as transformers does: most templates know
    what is not there, and write ``None`` or fail at what is.
    Raises ``ValueError`` with the template's own words if the messages do not suit it, and
    ``TemplateExceeds``, which is one, if it wants more than a template may.
    """
    variables = {
        "messages": [{k: v for k, v in one.items() if v is not None} for one in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **_special_tokens(tokenizer),
    }
    try:
        template = _compiled(tokenizer.chat_template or PLAIN_TEMPLATE)
        if isinstance(template, ValueError):
            raise type(template)(*template.args)
        return render(template, variables, Budget(weigh(variables)))
    except TemplateExceeds as error:
        raise TemplateExceeds(f"the chat template is refused: {error}") from error
    except _OF_A_TEMPLATE as error:
        said = str(error)[:MAX_SAID]
        raise ValueError(f"the chat template refuses these messages: {said}") from error


def why_no_template(template: str) -> str | None:
    """Why a text is no template at all, if it is none; what it does is found when it runs."""
    made = _compiled(template)
    is_wrong = isinstance(made, ValueError) and not isinstance(made, TemplateExceeds)
    return str(made) if is_wrong else None


class GenerationBlocks(jinja2.ext.Extension):
    """``{% generation %}`` around what an assistant says, which transformers marks for training."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The block's text, in a scope of its own as transformers gives it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: jinja2.runtime.Macro) -> str:
        return str(caller())


class _Dict:
    """``dict`` for templates, without the methods that change one: the sandbox allows those."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Special tokens by name; one that the tokenizer has not is undefined in the template."""
    ids = {
        "bos_token": tokenizer.bos_token_id,
        "eos_token": next(iter(tokenizer.eos_token_ids), None),
    }
    named = {n: tokenizer.backend.id_to_token(i) for n, i in ids.items() if i is not None}
    return {
        name: token
        for name, token in {**named, **named_tokens(tokenizer.kept)}.items()
        if isinstance(token, str)
    }


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template | ValueError:
    """The template, or why there is none: that takes time, too, and is found once."""
    environment = BoundedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlocks, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    try:
        return environment.from_string(template)
    except TemplateExceeds as error:
        return TemplateExceeds(str(error))
    except _OF_A_TEMPLATE as error:
        return ValueError(str(error))


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the filter's own signature
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Without the escapes for HTML that Jinja's own filter puts in."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return dt.datetime.now().astimezone().strftime(form)

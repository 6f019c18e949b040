"""From messages to the text of a prompt: by the tokenizer's chat template, else by a plain one.

A template is a program of the model's authors; it runs in Jinja's immutable sandbox with the
helpers that transformers gives it. Special tokens that a message spells out are recognised as
such, as everywhere in this field: who must not be believed should not be quoted bare.
"""

import datetime as dt
import functools
import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lm.tokenizer import Tokenizer

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] | trim }}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For base models: a play's lines, which a model that only ever read texts can go on with."""


def chat_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """Text that ends where the assistant's answer begins.

    Raises ``ValueError`` with the template's own words if the messages do not suit it.
    """
    try:
        template = _compiled(tokenizer.chat_template or PLAIN_TEMPLATE)
        return template.render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=_token(tokenizer, tokenizer.bos_token_id),
            eos_token=_token(tokenizer, next(iter(tokenizer.eos_token_ids), None)),
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise ValueError(f"the chat template refuses these messages: {error}") from error


def _token(tokenizer: Tokenizer, token_id: int | None) -> str:
    return "" if token_id is None else tokenizer.backend.id_to_token(token_id) or ""


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def _to_json(value: object, indent: int | None = None) -> str:
    """Without the escapes for HTML that Jinja's own filter puts in."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return dt.datetime.now().astimezone().strftime(form)

"""Prompts of chats against transformers' own rendering of the same templates."""

from typing import Any

import pytest
from toys import END_OF_TEXT, toy_tokenizer
from transformers import PreTrainedTokenizerFast

from lm.text.chat import chat_prompt
from lm.text.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OTHERS = (
    "{{ bos_token }}{% for m in messages %}\n  {%- if m.role == 'system' -%}{% continue %}\n"
    "  {%- endif -%}[{{ m.role }}] {{ m.content | trim | tojson }}{{ eos_token }}\n{% endfor %}"
    "{{ strftime_now('%Y')[:0] }}"
)
GENERATION = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'assistant' %}\n"
    "  {% generation %}\n{% set ns.n = ns.n + 1 %}{{ m['content'] }}{{ eos_token }}"
    "{% endgeneration %}\n{% else %}{{ m['content'] }}{% endif %}{% endfor %}{{ ns.n }}"
)
ENVIRONMENT = (
    "{% set d = dict(a=1) %}{{ d | tojson }}{{ messages | tojson(indent=2, sort_keys=true) }}"
    "{{ {'b': '☃', 'a': 2} | tojson(separators=(',', ':'), ensure_ascii=true) }}"
    "{{ dict.fromkeys(['k'], 2) }}{{ pad_token is defined }}{{ unk_token is defined }}"
    "{{ tools is none }}{{ documents is none }}{% if tools %}never{% endif %}"
    "{% for n in range(5) %}{% if n == 3 %}{% break %}{% endif %}{{ n }}{% endfor %}"
    "{% macro of(x) %}<{{ x }}>{% endmacro %}{{ of(messages[-1].role) }}"
    "{{ messages[0]['content'][:2] ~ messages | length }}{{ messages[0].get('name', 'nobody') }}"
)
CALLS = (
    "{% for m in messages %}{% if m.content is defined %}{{ m.role ~ m.content }}{% endif %}"
    "{% for call in m.tool_calls %}{{ call.function.arguments | tojson }}{% endfor %}"
    "{% if m['content'] is not string %}{% for part in m['content'] %}{{ part }}{% endfor %}"
    "{% endif %}{{ m.name }}{% endfor %}"
)
"""As templates are that know messages without a content, and not one that is ``None``."""
CHATS = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "Be <b>brief</b> & 'kind' ☃."},
        {"role": "user", "content": " What is 2+2?\n"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And {{ 3 }} more? {% raw %}"},
    ],
]


def tokenizer_with(template: str | None) -> Tokenizer:
    return Tokenizer(
        toy_tokenizer().backend,
        bos_token_id=0,
        eos_token_ids=[0],
        chat_template=template,
        kept={"pad_token": END_OF_TEXT},
    )


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("messages", CHATS, ids=["short", "long"])
@pytest.mark.parametrize(
    "template",
    [CHATML, OTHERS, GENERATION, ENVIRONMENT, CALLS],
    ids=["chatml", "others", "generation", "environment", "calls"],
)
def test_prompts_are_those_of_transformers(
    template: str, messages: list[dict[str, Any]], generation: bool
) -> None:
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=toy_tokenizer().backend,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
    )
    expected = theirs.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=generation
    )
    ours = chat_prompt(tokenizer_with(template), messages, add_generation_prompt=generation)
    assert ours == expected


@pytest.mark.parametrize("generation", [True, False])
def test_a_part_that_is_none_is_not_there(generation: bool) -> None:
    call = {"function": {"name": "f", "arguments": {"x": "é<b>"}}, "type": "function"}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "w", "name": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_calls": None},
    ]
    test_prompts_are_those_of_transformers(CALLS, messages, generation)
    assert "None" not in chat_prompt(tokenizer_with(None), messages)


def test_without_a_template_a_chat_is_a_plays_lines() -> None:
    prompt = chat_prompt(tokenizer_with(None), CHATS[1][1:3])
    assert prompt == "User: What is 2+2?\n\nAssistant: 4\n\nAssistant:"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% broken", "unexpected|Encountered|tag"),
        ("{{ messages[0]['content'] + 1 }}", "concatenate"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages[0]['content'].index('zz') }}", "substring"),
        ("{{ dict.__class__.__base__ }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% generation %}never closed", "end|expected|generation"),
    ],
)
def test_what_a_template_refuses_or_may_not_do_is_one_clear_error(
    template: str, reason: str
) -> None:
    with pytest.raises(
        ValueError, match=f"^the chat template refuses these messages: .*({reason})"
    ):
        chat_prompt(tokenizer_with(template), CHATS[0])

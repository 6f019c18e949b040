"""Templates that want too much, each by another way; and that usual ones are written as before."""

import time
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from toys import toy_tokenizer

from lm.template import BoundedEnvironment, Budget, TemplateExceeds, render
from lm.template.budget import weigh
from lm.text.chat import MAX_SAID, chat_prompt
from lm.text.tokenizer import Tokenizer

# ruff: noqa: E501  templates are one line each
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "  Be <b>brief</b> & 'kind' ☃. "},
    {"role": "user", "content": "What is 2+2?\n\nSay %s {x} why."},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4", "tool_calls": None},
    {"role": "user", "content": "tab\there, a-dash, and  two spaces"},
]
DOUBLED = "{{% set n = namespace(x={}) %}}{{% for i in range(60) %}}{}{{% endfor %}}{{{{ n.x }}}}"
EXCEEDING = {
    "product": "{{ 'a' * 300000000 }}",
    "product from the left": "{{ 300000000 * 'a' }}",
    "list": "{{ [1] * 300000000 }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "text in a loop": "{% for a in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
    "%": "{{ '%999999999d' % 1 }}",
    "% of an argument": "{{ '%*d' % (999999999, 1) }}",
    "% with a precision": "{{ '%.999999999f' % 1.0 }}",
    "format": "{{ '{:>999999999}'.format(1) }}",
    "format of an argument": "{{ '{a:>{b}}'.format(a=1, b=999999999) }}",
    "format_map": "{{ '{x:>999999999}'.format_map({'x': 1}) }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "~": DOUBLED.format("'aaaaaaaa'", "{% set n.x = n.x ~ n.x %}"),
    "+": DOUBLED.format("'aaaaaaaa'", "{% set n.x = n.x + n.x %}"),
    "set": DOUBLED.format("'aaaaaaaa'", "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"),
    "join": DOUBLED.format("'aaaaaaaa'", "{% set n.x = [n.x, n.x] | join %}"),
    "replace": DOUBLED.format("'aaaaaaaa'", "{% set n.x = n.x | replace('a', 'aaa') %}"),
    "nested lists": DOUBLED.format("[1]", "{% set n.x = [n.x, n.x] %}"),
    "nested objects": DOUBLED.format("1", "{% set n.x = {'a': n.x, 'b': n.x} %}"),
    "nested calls": DOUBLED.format("1", "{% set n.x = dict(a=n.x, b=n.x) %}"),
    "nested namespaces": DOUBLED.format("1", "{% set n.x = namespace(a=n.x, b=n.x) %}"),
    "nested items": DOUBLED.format("{'a': 1}", "{% set n.x = {'a': n.x, 'b': n.x}.items() %}"),
    "nested filters": DOUBLED.format("'abc'", "{% set n.x = (n.x, n.x) | list %}"),
    "numbers": DOUBLED.format("3", "{% set n.x = n.x * n.x %}"),
    "power": "{{ 9 ** 999999999 }}",
    "long separator": "{{ range(99999) | join('x' * 100000) }}",
    "long separator's method": "{{ ('x' * 100000).join(['a'] * 10000) }}",
    "large replacement": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "replacing nothing": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "translate": "{{ ('a' * 100000).translate({97: 'b' * 100000}) }}",
    "ljust": "{{ 'a'.ljust(999999999) }}",
    "zfill": "{{ 'a'.zfill(999999999) }}",
    "expandtabs": "{{ 'a\t'.expandtabs(999999999) }}",
    "center": "{{ 'a' | center(999999999) }}",
    "center by map": "{{ ['a'] | map('center', 999999999) | list }}",
    "indent": "{{ ('\n' * 100000) | indent('x' * 100000) }}",
    "wordwrap": "{{ ('a' * 100000) | wordwrap(1, true, 'x' * 100000) }}",
    "tojson": "{{ [1] | tojson(indent=999999999) }}",
    "batch": "{{ [1] | batch(999999999, 'x') | list }}",
    "slice": "{{ [1] | slice(999999999) | list }}",
    "sum of lists": "{% set x = [1] * 10000 %}{{ ([x] * 10000) | sum(start=[]) }}",
    "to_bytes": "{{ (1).to_bytes(999999999, 'big') }}",
    "long source": "x" * (1 << 18),
}
FAILING = {
    "division": ("{{ 1 / 0 }}", "division"),
    "range": ("{{ range(99999999) }}", "too big"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "block": ("{% block a %}{{ self.a() }}{% endblock %}", "recursion"),
    "loop": ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion"),
    "blocks": ("{% for a in [1] %}" * 40 + "{% endfor %}" * 40, "nested blocks"),
    "parentheses": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
    "dots": ("{{ a" + ".a" * 20_000 + " }}", "recursion"),
    "class": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "globals": ("{{ cycler.__init__.__globals__ }}", "unsafe"),
    "format's class": ("{{ '{0.__class__.__mro__}'.format(1) }}", "unsafe"),
    "include": ("{% include 'x' %}", "no loader"),
    "its own words": ("{{ raise_exception('x' * 100000) }}", "xxx"),
    "the budget": ("{{ budget() }}", "undefined"),
}
USUAL = [
    "{%- set ns = namespace(last=messages|length - 1, tools=false) %}"
    "{%- for message in messages[::-1] %}{% set index = (messages|length - 1) - loop.index0 %}"
    "{%- if not ns.tools and message.role == 'user' and not (message.content.startswith('<x>') and"
    " message.content.endswith('</x>')) %}{% set ns.tools = true %}{% set ns.last = index %}"
    "{%- endif %}{% endfor %}{% for message in messages %}{% set content = message.content %}"
    "{%- if message.role == 'assistant' and '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}[{{ thought|trim }}]{% endif %}"
    "{{- '<|im_start|>' ~ message.role ~ '\n' ~ content + '<|im_end|>' }}\n{% endfor %}{{ ns.last }}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = messages[0]['content']|trim %}{% else %}{% set loop_messages = messages %}"
    "{% endif %}{% for m in loop_messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles') }}{% endif %}{% if loop.index0 == 0 and system is defined %}"
    "{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ '[INST] %s [/INST]' % m.content if m.role == 'user' else ' ' + m.content|trim }}"
    "{% if not loop.last %}{{ loop.nextitem.role|upper }}{% endif %}{{ loop.previtem is defined }}"
    "{% endfor %}",
    "{% macro show(m, depth=1) %}{{ '-' * depth }}{{ m.role|title|replace('S', 's') }}: "
    "{{ m | tojson(indent=2) }}{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ show(m, loop.index) | indent(4) }}{{ loop.length }}{{ loop.revindex }}"
    "{% endfor %}{{ messages | map(attribute='role') | join(', ') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ messages | rejectattr('role', 'in', ['user']) | map(attribute='content') | first }}"
    "{{ '{:>8}|{!r}|{a}'.format('x', 'y', a=[1, 2]) }}{{ 'abc'.center(9) }}{{ 2 ** 10 }}"
    "{{ ['b', 'a'] | sort | join }}{{ {'b': 1, 'a': [2, none]} | dictsort }}{{ 7 // 2 }}{{ 7.5 % 2 }}"
    "{{ [1, 2, 3] | sum }}{{ range(3) | list }}{{ (1, 'x') }}{{ none }}{{ nothing }}{{ true }}"
    "{% set x %}a{{ 1 }}b{% endset %}{{ x ~ x }}{% filter upper %}low{{ 'er' }}{% endfilter %}"
    "{% macro box(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) box(3) %}{{ y }}{% endcall %}{{ 'a,b'.split(',') }}{{ [1] + [2] }}"
    "{{ 'x' in 'xyz' }}{{ 1 < 2 < 3 }}{{ 'a' 'b' }}{{ 3 is odd }}{{ [[1, 2], [3]] | sum(start=[]) }}"
    "{% for row in [1, 2, 3] | batch(2, 'z') %}{{ row }}{% endfor %}{{ 'A b'|wordcount }}"
    "{% for a, b in [(1, 2), (3, 4)] if a > 1 %}{{ a }}{{ b }}{% else %}none{% endfor %}"
    "{% for n in [1, [2, [3]]] recursive %}{{ loop(n) if n is iterable else n }}{% endfor %}",
]


def tokenizer_with(template: str) -> Tokenizer:
    backend = toy_tokenizer().backend
    return Tokenizer(backend, bos_token_id=0, eos_token_ids=[0], chat_template=template)


@pytest.mark.parametrize("kind", EXCEEDING)
def test_a_template_that_wants_too_much_is_refused_soon(kind: str) -> None:
    started = time.thread_time()
    with pytest.raises(TemplateExceeds, match=r"^the chat template is refused: it "):
        chat_prompt(tokenizer_with(EXCEEDING[kind]), MESSAGES)
    assert time.thread_time() - started < 3


@pytest.mark.parametrize("kind", FAILING)
def test_a_template_that_fails_is_one_short_error(kind: str) -> None:
    template, reason = FAILING[kind]
    for _ in range(2):  # what cannot be compiled is remembered
        with pytest.raises(ValueError, match=f"(?i)chat template refuses .*{reason}") as failed:
            chat_prompt(tokenizer_with(template), MESSAGES)
        assert len(str(failed.value)) < MAX_SAID + 60


@pytest.mark.parametrize("template", USUAL, ids=["thoughts", "turns", "everything"])
def test_usual_templates_are_written_as_without_bounds(template: str) -> None:
    def refuse(message: str) -> None:
        raise AssertionError(message)

    options = {"trim_blocks": True, "lstrip_blocks": True}
    plain, bounded = ImmutableSandboxedEnvironment(**options), BoundedEnvironment(**options)
    variables = {"messages": MESSAGES, "raise_exception": refuse}
    expected = plain.from_string(template).render(**variables)
    assert render(bounded.from_string(template), variables, Budget(weigh(variables))) == expected
    assert len(expected) > 100


def test_long_chats_have_room() -> None:
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
        "'<|im_end|>' + '\n' }}{% endfor %}"
    )
    many = [{"role": "user", "content": "x" * 20}] * 2000
    assert len(chat_prompt(tokenizer_with(chatml), many)) == 2000 * (20 + 28)
    long = [{"role": "user", "content": "x" * (1 << 22)}]
    assert len(chat_prompt(tokenizer_with(chatml), long)) == (1 << 22) + 28


def test_what_is_in_a_value_twice_weighs_twice() -> None:
    assert weigh("abc") == 3
    one = ["x" * 100]
    assert weigh([one, one]) == 2 * weigh(one) + 8 * 3
    with pytest.raises(TemplateExceeds):
        weigh([one, one], most=200)

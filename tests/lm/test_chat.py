"""Prompts of chats against transformers' own rendering of the same templates."""

import pytest
from toys import END_OF_TEXT, toy_tokenizer
from transformers import PreTrainedTokenizerFast

from lm.chat import chat_prompt
from lm.tokenizer import Tokenizer

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
        toy_tokenizer().backend, bos_token_id=0, eos_token_ids=[0], chat_template=template
    )


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("messages", CHATS, ids=["short", "long"])
@pytest.mark.parametrize("template", [CHATML, OTHERS], ids=["chatml", "others"])
def test_prompts_are_those_of_transformers(
    template: str, messages: list[dict[str, str]], generation: bool
) -> None:
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=toy_tokenizer().backend, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )
    expected = theirs.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=generation
    )
    ours = chat_prompt(tokenizer_with(template), messages, add_generation_prompt=generation)
    assert ours == expected


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
    ],
)
def test_what_a_template_refuses_or_may_not_do_is_one_clear_error(
    template: str, reason: str
) -> None:
    with pytest.raises(
        ValueError, match=f"^the chat template refuses these messages: .*({reason})"
    ):
        chat_prompt(tokenizer_with(template), CHATS[0])

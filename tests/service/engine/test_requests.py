"""Everything a request may ask of the engine, against transformers and the reference."""

import dataclasses
import json
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from serving import generation_request, reference_ids, toy_engine
from toys import toy_decoder, toy_tokenizer
from toys.properties import examples
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from service.engine.engine import Engine
from service.engine.request import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptScored,
    TokenGenerated,
)
from service.engine.structure.constraint import regex_grammar, schema_grammar
from service.engine.structure.grammars import MAX_KEPT, Grammars

PROMPT = (40, 50, 60, 70, 80)


def ask(
    request_id: str = "a", prompt_ids: tuple[int, ...] = PROMPT, **asked: Any
) -> GenerationRequest:
    """A greedy request; what is no field of sampling is one of the request."""
    names = {field.name for field in dataclasses.fields(GenerationRequest)}
    fields = {name: asked.pop(name) for name in list(asked) if name in names}
    request = generation_request(request_id, prompt_ids, **asked)
    return dataclasses.replace(request, **{"max_new_tokens": 12, **fields})


def run(engine: Engine, *requests: GenerationRequest) -> dict[str, list[Event]]:
    for request in requests:
        engine.submit(request)
    events: dict[str, list[Event]] = {request.request_id: [] for request in requests}
    while not engine.is_idle:
        for event in engine.step():
            events[event.request_id].append(event)
        engine.check_integrity()
    return events


def tokens(events: list[Event]) -> list[int]:
    return [event.token_id for event in events if isinstance(event, TokenGenerated)]


def end(events: list[Event]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def text(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, TokenGenerated | Finished))


def alone(**asked: Any) -> list[Event]:
    return run(toy_engine(), ask(**asked))["a"]


ASKED: list[dict[str, Any]] = [
    {"repetition_penalty": 1.4},
    {"logit_bias": ((5, 100.0), (6, 99.0)), "max_new_tokens": 3},
    {"frequency_penalty": 1.5, "presence_penalty": 0.5, "temperature": 0.8, "seed": 4},
    {"min_p": 0.2, "temperature": 1.3, "seed": 5},
    {
        "repetition_penalty": 0.8,
        "top_k": 9,
        "temperature": 1.0,
        "seed": 6,
        "logit_bias": ((7, 3.0),),
    },
    {"temperature": 1.0, "seed": 7},
    {},
]


@pytest.mark.parametrize("speculation", [True, False])
def test_each_parameter_gives_the_references_tokens_in_any_company(speculation: bool) -> None:
    requests = [ask(f"r{number}", **asked) for number, asked in enumerate(ASKED)]
    engine = toy_engine(num_slots=3, max_step_tokens=8, speculation=speculation)
    events = run(engine, *requests)
    for request in requests:
        assert tokens(events[request.request_id]) == reference_ids(toy_decoder(0).double(), request)


@examples(15)
@given(
    penalty=st.floats(0.5, 2.0),
    bias=st.dictionaries(st.integers(0, 299), st.floats(-20, 20, width=32), max_size=4),
    min_new_tokens=st.integers(0, 8),
)
def test_greedy_answers_are_those_of_transformers_processors(
    penalty: float, bias: dict[int, float], min_new_tokens: int
) -> None:
    """Written out as transformers would: the whole sequence, the processors, the argmax."""
    decoder, row = toy_decoder(0).double(), list(PROMPT)
    processors = LogitsProcessorList()
    if bias:
        processors.append(SequenceBiasLogitsProcessor({(i,): value for i, value in bias.items()}))
    processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    processors.append(MinNewTokensLengthLogitsProcessor(len(PROMPT), min_new_tokens, [0, 33, 44]))
    for _ in range(10):
        with torch.inference_mode():
            logits = decoder(torch.tensor([row]))[:, -1].float()
        token = int(processors(torch.tensor([row]), logits)[0].argmax())
        if token in (0, 33, 44):
            break
        row.append(token)
    events = alone(
        repetition_penalty=penalty,
        logit_bias=tuple(bias.items()),
        min_new_tokens=min_new_tokens,
        stop_token_ids=(33, 44),
        max_new_tokens=10,
    )
    assert tokens(events) == row[len(PROMPT) :]


def test_a_stop_token_ends_the_answer_with_or_without_its_text() -> None:
    whole = tokens(alone())
    stop = whole[4]
    first = whole.index(stop)
    events = alone(stop_token_ids=(stop,))
    assert tokens(events) == whole[:first]
    assert (end(events).reason, end(events).by_text) == (FinishReason.STOP, False)
    included = alone(stop_token_ids=(stop,), include_stop=True)
    assert tokens(included) == whole[: first + 1]
    assert end(included).reason is FinishReason.STOP


def test_a_models_own_end_can_be_ignored() -> None:
    bias = ((0, 100.0),)
    assert tokens(alone(logit_bias=bias)) == []
    events = alone(logit_bias=bias, ignore_eos=True, max_new_tokens=4)
    assert tokens(events) == [0, 0, 0, 0]
    assert end(events).reason is FinishReason.LENGTH
    late = alone(logit_bias=bias, min_new_tokens=3)
    assert len(tokens(late)) == 3
    assert end(late).reason is FinishReason.STOP


def test_a_stop_string_can_be_included_and_has_to_come_late_enough() -> None:
    words = alone(logit_bias=((65, 100.0),), max_new_tokens=6)
    assert text(words) == "aaaaaa"
    stopped = alone(logit_bias=((65, 100.0),), stop=("aa",))
    assert (text(stopped), len(tokens(stopped)), end(stopped).by_text) == ("", 2, True)
    included = alone(logit_bias=((65, 100.0),), stop=("aa",), include_stop=True)
    assert text(included) == "aa"
    late = alone(logit_bias=((65, 100.0),), stop=("aa",), min_new_tokens=3)
    assert (text(late), len(tokens(late))) == ("aaa", 5)


def log_softmax(token_ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return toy_decoder(0).double()(torch.tensor([token_ids]))[0].float().log_softmax(-1)


@pytest.mark.parametrize("max_step_tokens", [16, 5])
@pytest.mark.parametrize("max_new_tokens", [0, 4])
def test_scores_are_the_models_own_log_probabilities(
    max_new_tokens: int, max_step_tokens: int
) -> None:
    """Whatever tempers the draw, whatever shares the batch, however the prompt is cut."""
    scored = ask(
        prompt_ids=tuple(range(30, 45)),
        max_new_tokens=max_new_tokens,
        logprobs=3,
        prompt_logprobs=2,
        temperature=2.0,
        seed=3,
        repetition_penalty=1.5,
    )
    twin = dataclasses.replace(scored, request_id="twin")  # shares a prefix, but not its scores
    engine = toy_engine(num_slots=4, max_step_tokens=max_step_tokens)
    events = run(engine, ask("other"), scored, ask("another", temperature=1.0), twin)
    answer = tokens(events["a"])
    assert len(answer) == max_new_tokens
    rows = log_softmax([*scored.prompt_ids, *answer])
    for name in ("a", "twin"):
        (prompt,) = [event for event in events[name] if isinstance(event, PromptScored)]
        assert [score.token_id for score in prompt.scores] == list(scored.prompt_ids[1:])
        for row, score in zip(rows, prompt.scores, strict=False):
            assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-5)
            assert [token for token, _ in score.top] == row.topk(2).indices.tolist()
        said = [event for event in events[name] if isinstance(event, TokenGenerated)]
        for row, event in zip(rows[len(scored.prompt_ids) - 1 :], said, strict=False):
            assert event.score is not None
            assert event.score.logprob == pytest.approx(float(row[event.token_id]), abs=1e-5)
            values = [logprob for _, logprob in event.score.top]
            assert values == pytest.approx(row.topk(3).values.tolist(), abs=1e-5)
    assert end(events["a"]).reason is FinishReason.LENGTH
    assert all(e.score is None for e in events["other"] if isinstance(e, TokenGenerated))


def test_a_prompt_that_fills_the_context_can_be_scored() -> None:
    (scored, last) = (
        event
        for event in alone(prompt_ids=tuple(range(256)), max_new_tokens=0, prompt_logprobs=0)
        if isinstance(event, PromptScored | Finished)
    )
    assert isinstance(scored, PromptScored)
    assert len(scored.scores) == 255
    assert last == Finished("a", FinishReason.LENGTH)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Anna", "Ben"]},
        "age": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(4))
def test_a_schema_holds_in_any_company(seed: int) -> None:
    asked: dict[str, Any] = {"temperature": 1.5, "seed": seed, "max_new_tokens": 60}
    structured = ask(grammar=schema_grammar(SCHEMA), **asked)
    events = run(toy_engine(), structured, ask("free", **asked), ask("b", repetition_penalty=2.0))
    said = json.loads(text(events["a"]))
    assert said.keys() == {"name", "age"}
    assert said["name"] in ("Anna", "Ben")
    assert 0 <= said["age"] <= 99
    assert end(events["a"]).reason is FinishReason.STOP
    assert events["a"] == alone(grammar=schema_grammar(SCHEMA), **asked)
    assert tokens(events["free"]) == tokens(run(toy_engine(), ask("free", **asked))["free"])


@pytest.mark.parametrize("pattern", [r"[a-c]{3}-[0-9]{2,4}", r"(yes|no)", r"ü+☃", r"/a\\b\"/"])
def test_a_regex_holds(pattern: str) -> None:
    for seed in range(3):
        events = alone(
            grammar=regex_grammar(pattern), temperature=2.0, seed=seed, max_new_tokens=40
        )
        if end(events).reason is FinishReason.STOP:
            assert re.fullmatch(pattern, text(events))
        else:
            assert pattern == r"ü+☃", "only this one may go on for ever"


@pytest.mark.parametrize(
    "grammar",
    [
        regex_grammar("(a"),
        regex_grammar(r"[^\s\S]"),
        schema_grammar({"type": "nope"}),
        schema_grammar({"$ref": "#"}),
        "start: nonsense[",
    ],
)
def test_what_is_no_grammar_is_refused(grammar: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Grammars(toy_tokenizer()).check(grammar)


def test_a_structure_that_is_too_much_ends_its_request_and_says_whose_fault_it_is() -> None:
    ended = end(alone(grammar=regex_grammar("(a{1000}){1000}")))
    assert (ended.reason, ended.is_refusal) == (FinishReason.ERROR, True)
    assert ended.message.startswith("the structure is too complex: ")


def test_an_end_is_no_way_out_of_a_structure_that_failed() -> None:
    """Where it is too much the library lets an end follow, and the text would pass for whole."""
    grammars = Grammars(toy_tokenizer())
    constraint = grammars.begin(regex_grammar("ab"))
    assert not constraint.accept(toy_tokenizer().encode("x")[0])
    assert not constraint.accept(0)
    whole = grammars.begin(regex_grammar("a{1,3}"))
    assert whole.accept(toy_tokenizer().encode("a")[0])
    assert whole.accept(0)


def test_what_is_one_is_not() -> None:
    grammars = Grammars(toy_tokenizer())
    grammars.check(regex_grammar("a+"))
    grammars.check(schema_grammar(SCHEMA))
    constraint = grammars.begin(regex_grammar("ab"))
    logits = torch.zeros(310)
    constraint.restrict(logits)
    assert logits.isfinite().nonzero().flatten().tolist() == toy_tokenizer().encode("a")
    assert constraint.accept(toy_tokenizer().encode("a")[0])
    assert not constraint.is_complete
    assert not constraint.accept(toy_tokenizer().encode("x")[0])
    assert constraint.problem.startswith("the structure is too complex")


def test_what_was_read_for_a_request_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many others were read since: the engine's thread begins with what it holds."""
    grammars = Grammars(toy_tokenizer())
    held = grammars.check(regex_grammar("ab"))
    for number in range(MAX_KEPT + 1):
        grammars.check(regex_grammar(f"a{{{number + 1}}}"))
    monkeypatch.setattr(grammars, "_begun", None)
    constraint = grammars.begin(regex_grammar("ab"), prepared=held)
    assert constraint.accept(toy_tokenizer().encode("a")[0])
    again = grammars.begin(regex_grammar("ab"), prepared=held)
    assert not again.accept(toy_tokenizer().encode("b")[0])


def test_models_of_one_tokenizer_share_its_trie() -> None:
    tokenizer = toy_tokenizer()
    assert Grammars(tokenizer)._trie is Grammars(tokenizer)._trie

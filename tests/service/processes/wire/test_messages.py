import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import toy_tokenizer

from lm.sampling import SamplingParams
from service import errors
from service.engine.request import GenerationRequest
from service.engine.served_model import Checkpoint, ModelCard
from service.processes.wire import frames, messages
from service.processes.wire.frames import Kind, Splitter, frame, message

IDS = st.integers(0, 2**32 - 1)
ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ServiceError)
]

SAMPLING = st.builds(
    SamplingParams,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 2**63 - 1),
    top_p=st.floats(0, 1, exclude_min=True),
    logit_bias=st.lists(st.tuples(IDS, st.floats(-100, 100))).map(tuple),
    seed=st.integers(0, 2**63 - 1),
)
REQUESTS = st.builds(
    GenerationRequest,
    request_id=st.text(),
    prompt_ids=st.lists(IDS, min_size=1).map(tuple),
    max_new_tokens=st.integers(0, 2**40),
    sampling=SAMPLING,
    min_new_tokens=st.integers(0, 9),
    ignore_eos=st.booleans(),
    stop=st.lists(st.text(min_size=1)).map(tuple),
    stop_token_ids=st.lists(IDS).map(tuple),
    include_stop=st.booleans(),
    logprobs=st.none() | st.integers(0, 20),
    prompt_logprobs=st.none() | st.integers(0, 20),
    grammar=st.none() | st.text(),
    makes_text=st.booleans(),
    deadline=st.none() | st.floats(allow_nan=False),
)


@given(st.lists(REQUESTS, min_size=1, max_size=3))
def test_requests_cross_whole(requests: list[GenerationRequest]) -> None:
    heads, prompts = zip(*map(messages.encode_request, requests), strict=True)
    payload = message(Kind.SUBMIT, {"requests": heads}, b"".join(prompts))
    ((kind, content),) = Splitter().feed(payload)
    assert kind is Kind.SUBMIT
    head, body = frames.read(content)
    cut = messages.prompts(head["requests"], body)
    read = [messages.decode_request(*one) for one in zip(head["requests"], cut, strict=True)]
    assert read == requests


@given(
    st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=300)), max_size=6),
    st.lists(st.integers(0, 2000)),
)
def test_frames_are_found_however_the_bytes_come(
    frames: list[tuple[Kind, bytes]], cuts: list[int]
) -> None:
    sent = b"".join(frame(kind, payload) for kind, payload in frames)
    splitter = Splitter()
    bounds = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    found = [
        one for start, end in itertools.pairwise(bounds) for one in splitter.feed(sent[start:end])
    ]
    assert found == frames


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_keep_their_kind_and_words(kind: type[errors.ServiceError]) -> None:
    extra = {"retry_after_s": 3} if issubclass(kind, errors.QueueFull) else {}
    error = kind("too much", **extra)
    error.param = "n"
    read = messages.decode_error(messages.encode_error(error))
    assert type(read) is kind
    assert vars(read) == vars(error)
    assert str(read) == "too much"


def test_a_card_and_its_tokenizer_cross_whole() -> None:
    tokenizer = toy_tokenizer()
    card = ModelCard(
        checkpoint=Checkpoint(run="toy", step=3, fingerprint="f" * 64, created_at=1.5),
        tokenizer=tokenizer,
        max_model_tokens=256,
        dtype="bfloat16",
        backend="torch",
        not_fused="Triton is not installed",
        num_slots=17,
        device="cuda",
        load_s=0.25,
        bits_per_byte=1.25,
    )
    read_tokenizer = messages.decode_tokenizer(*messages.encode_tokenizer(tokenizer))
    assert read_tokenizer.fingerprint == tokenizer.fingerprint
    head = messages.encode_card(card)
    assert head["tokenizer"] == tokenizer.fingerprint
    assert dataclasses.replace(messages.decode_card(head, tokenizer)) == card

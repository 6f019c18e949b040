"""What the service measures of a model by itself, on a text of its own.

The text is part of the program, so two checkpoints are always measured on the same; it is nobody's
training data, so what is compared is one model with another, never a model with a target.
"""

import math

import torch
import torch.nn.functional as F

from lm.sampling import SamplingParams
from lm.text.tokenizer import Tokenizer
from service.engine.engine import Engine
from service.engine.pytorch.runner import StepRunner
from service.engine.request import GenerationRequest, TokenGenerated

PROBE_TEXT = """\
The ferry left at seven, before the fog had lifted from the harbour. Anna stood at the rail with
her brother's letter in her coat and counted the bells: one for the lighthouse, two for the mill.
"You will be cold," said the captain. "I was colder on the way here," she answered, and he laughed.
By noon the wind had turned. They could see the island, its white church and the long grey wall
that the fishermen had built after the great storm, stone upon stone, for eleven winters. Nobody
remembered who had laid the first. What is the use of a wall, the children asked, if the sea can
climb? It teaches the sea to wait, the old men said.
That evening she wrote: Dear Tom, I have arrived. There are 40 houses, 3 wells and 1 piano.
"""
"""Plain English, dialogue and a few numbers."""
MAX_PROBE_TOKENS = 256
CONTINUATION_TOKENS = 64
LOOP_TOKENS = 32
MAX_LOOP_PERIOD = 8
_PROMPT = PROBE_TEXT[: PROBE_TEXT.index(".") + 1]


def probe_ids(tokenizer: Tokenizer, text: str, max_tokens: int) -> list[int]:
    """First tokens of a text, after the token that begins one where the tokenizer has it."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*begin, *tokenizer.encode(text, add_special_tokens=False)][:max_tokens]


@torch.inference_mode()
def bits_per_byte(runner: StepRunner, tokenizer: Tokenizer) -> float:
    """Bits that the model needs for a byte of the probe text; infinite for a single token.

    Unlike a loss a token, it can be compared between tokenizers.
    """
    max_tokens = min(MAX_PROBE_TOKENS, runner.cache.max_tokens)
    token_ids = probe_ids(tokenizer, PROBE_TEXT, max_tokens)
    num_bytes = sum(len(tokenizer.bytes_of(token_id)) for token_id in token_ids[1:])
    logits = runner.score(token_ids)[:-1].float().cpu()
    nats = F.cross_entropy(
        logits, torch.tensor(token_ids[1:], dtype=torch.int64), reduction="sum"
    ).item()
    return nats / math.log(2) / num_bytes if num_bytes else math.inf


def greedy_continuation(engine: Engine, tokenizer: Tokenizer, max_model_tokens: int) -> list[int]:
    """What a model that nobody uses yet says after the probe text's first sentence."""
    prompt_ids = probe_ids(tokenizer, _PROMPT, max(1, max_model_tokens // 2))
    engine.submit(
        GenerationRequest(
            request_id="probe",
            prompt_ids=tuple(prompt_ids),
            max_new_tokens=min(CONTINUATION_TOKENS, max_model_tokens - len(prompt_ids)),
            sampling=SamplingParams(temperature=0.0),
        )
    )
    events = []
    while not engine.is_idle:
        events += engine.step()
    return [event.token_id for event in events if isinstance(event, TokenGenerated)]


def is_degenerate(token_ids: list[int]) -> bool:
    """Whether a text ended at once, or its last tokens are a short loop."""
    tail = token_ids[-LOOP_TOKENS:]
    if len(tail) < LOOP_TOKENS:
        return not token_ids
    return any(tail[period:] == tail[:-period] for period in range(1, MAX_LOOP_PERIOD + 1))

"""One request while it is served: a few facts, everything else derived."""

from lm.tokenizer import Tokenizer
from service.engine.request import FinishReason, GenerationRequest, TokenScore
from service.engine.structured import Constraint
from service.engine.text import NoText, TextStream


class Sequence:
    """Prompt and output of a request, and how far the cache has come with them."""

    def __init__(
        self,
        request: GenerationRequest,
        tokenizer: Tokenizer,
        constraint: Constraint | None = None,
    ) -> None:
        assert request.prompt_ids, "the border refuses empty prompts"
        self.request = request
        self.output_ids: list[int] = []
        self.num_computed = 0
        """Tokens whose keys and values are in the cache."""
        self.slot: int | None = None
        """Row of the cache while running."""
        self.text = (
            TextStream(tokenizer, request.stop, include_stop=request.include_stop)
            if request.makes_text
            else NoText()
        )
        self.constraint = constraint
        self.prompt_scores: list[TokenScore] = []
        own_ends = () if request.ignore_eos else tokenizer.eos_token_ids
        self.end_ids = (*own_ends, *request.stop_token_ids)
        """Tokens that end the answer."""

    @property
    def request_id(self) -> str:
        """Identity of the request."""
        return self.request.request_id

    @property
    def num_tokens(self) -> int:
        """Prompt and output so far."""
        return len(self.request.prompt_ids) + len(self.output_ids)

    @property
    def num_uncomputed(self) -> int:
        """Tokens that the next steps must compute: 1 while decoding, more in prefill."""
        return self.num_tokens - self.num_computed

    def tokens(self, start: int, end: int) -> tuple[int, ...]:
        """Token ids [start, end) of prompt and output."""
        prompt = self.request.prompt_ids
        if end <= len(prompt):
            return prompt[start:end]
        return (*prompt, *self.output_ids)[start:end]

    def banned_ids(self, index: int) -> tuple[int, ...]:
        """Tokens that may not be chosen at an index of the output."""
        return self.end_ids if index < self.request.min_new_tokens else ()

    def limit_reached(self, max_model_tokens: int) -> FinishReason | None:
        """``LENGTH`` once no further token may or can be produced."""
        if len(self.output_ids) >= self.request.max_new_tokens:
            return FinishReason.LENGTH
        return FinishReason.LENGTH if self.num_tokens >= max_model_tokens else None

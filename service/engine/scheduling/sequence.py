"""One request while it is served: a few facts, everything else derived."""

from lm.text.tokenizer import Tokenizer
from service.engine.output_text import NoText, TextStream
from service.engine.request import FinishReason, GenerationRequest, TokenScore
from service.engine.scheduling.penalties import Penalties
from service.engine.structure.constraint import Constraint


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
        self.num_prompt = len(request.prompt_ids)
        self.output_ids: list[int] = []
        self.num_computed = 0
        """Tokens whose keys and values are in the cache, or will be once the device is done."""
        self.num_pending = 0
        """Tokens that were drawn on the device and have not been read yet."""
        self.must_be_read = False
        """Whether pending tokens have to be read before the sequence can go on."""
        self.slot: int | None = None
        """Row of the cache while running."""
        self.number = 0
        """Place in the order of arrival."""
        self.has_started = False
        """Whether it has had a slot, so that its next one is no news."""
        self.is_to_score = request.prompt_logprobs is not None
        """Whether its prompt is still to be scored, at least in part."""
        self.text = (
            TextStream(
                tokenizer,
                request.stop,
                prompt_ids=request.prompt_ids,
                include_stop=request.include_stop,
            )
            if request.makes_text
            else NoText()
        )
        self.constraint = constraint
        self.penalties: Penalties | None = None
        """Made when its first token is drawn, where logits are adjusted."""
        self.prompt_scores: list[TokenScore] = []
        own_ends = () if request.ignore_eos else tokenizer.eos_token_ids
        self.end_ids = (*own_ends, *request.stop_token_ids)
        """Tokens that end the answer."""
        self.wants_logits = request.logprobs is not None or request.prompt_logprobs is not None
        """Whether the host looks at the logits that its tokens are drawn from."""

    @property
    def request_id(self) -> str:
        """Identity of the request."""
        return self.request.request_id

    @property
    def client(self) -> str:
        """Who asked for it."""
        return self.request.client

    @property
    def num_tokens(self) -> int:
        """Prompt and output so far, pending tokens included."""
        return self.num_prompt + len(self.output_ids) + self.num_pending

    @property
    def num_known(self) -> int:
        """Prompt and output so far, as far as they have been read."""
        return self.num_prompt + len(self.output_ids)

    @property
    def num_uncomputed(self) -> int:
        """Tokens that the next steps must compute: 1 while decoding, more in prefill."""
        return self.num_tokens - self.num_computed

    def tokens(self, start: int, end: int) -> tuple[int, ...]:
        """Token ids [start, end) of prompt and output, without those that are not known yet."""
        prompt, before = self.request.prompt_ids, self.num_prompt
        if end <= before:
            return prompt[start:end]  # the prompt itself, where it is all of it
        written = self.output_ids[max(0, start - before) : end - before]
        return tuple(written) if start >= before else (*prompt[start:], *written)

    def banned_ids(self, index: int) -> tuple[int, ...]:
        """Tokens that may not be chosen at an index of the output."""
        return self.end_ids if index < self.request.min_new_tokens else ()

    def limit_reached(self, max_model_tokens: int) -> FinishReason | None:
        """``LENGTH`` once no further token may or can be produced."""
        if len(self.output_ids) >= self.request.max_new_tokens:
            return FinishReason.LENGTH
        return FinishReason.LENGTH if self.num_known >= max_model_tokens else None

    def will_end(self, max_model_tokens: int) -> bool:
        """Whether its pending tokens are the last that may or can be produced."""
        return (
            len(self.output_ids) + self.num_pending >= self.request.max_new_tokens
            or self.num_tokens >= max_model_tokens
        )

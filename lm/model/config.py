"""The shape of the one decoder, as a frozen value that both processes read from the volume.

Field names are Hugging Face's Llama names where one exists, so that a config of either side can
be read without a dictionary. ``lm.huggingface.config`` translates to and from ``config.json``.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self


def refuse_unknown_keys(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise ``ValueError`` naming the first unknown key and its nearest known neighbour."""
    known = list(known)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{where}: unknown key {key!r}{hint}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of a decoder; every field is a switch or a size, everything else derives.

    Raises ``ValueError`` at construction for sizes that do not fit each other.
    """

    vocab_size: int
    """Rows of the embedding; at least the tokenizer's vocabulary."""
    hidden_size: int
    intermediate_size: int
    """Width of the MLP between its up and down projections."""
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    """Fewer than the query heads: grouped-query attention (arXiv:2305.13245)."""
    max_position_embeddings: int
    """Longest sequence, prompt and output together, in tokens."""
    positions: Literal["rope", "learned"] = "rope"
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies (arXiv:2104.09864); unused with learned positions."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_eps: float = 1e-5
    mlp: Literal["swiglu", "gelu", "gelu_erf"] = "swiglu"
    """``gelu`` is up → GELU in its tanh form, as GPT-2's → down; ``gelu_erf`` the exact form, as
    ``nn.GELU()``'s."""
    bias: bool = False
    """Biases in every projection and in LayerNorm, as GPT-2 has them."""
    tie_word_embeddings: bool = True
    residual_scale: float = 1.0
    """Factor on each block's output before it is added to the residual stream."""
    dropout: float = 0.0
    """On embeddings, attention weights and block outputs; in training mode only."""
    initializer_range: float | None = None
    """Standard deviation of fresh weights; ``None`` is 1/√hidden_size, as SmolLM2's recipe."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other."""
        for field in dataclasses.fields(self):
            _refuse_wrong_type(field, getattr(self, field.name))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"model.hidden_size {self.hidden_size} does not divide into "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"model.num_attention_heads {self.num_attention_heads} does not divide into "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"model.head_dim {self.head_dim} must be even for rotary positions")
        if self.rope_theta == 0.0:
            raise ValueError("model.rope_theta must be positive, got 0")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"model.{name} must be one of {choices}, got {getattr(self, name)!r}"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain data; an unknown key is refused with its nearest neighbour."""
        refuse_unknown_keys(values, (field.name for field in dataclasses.fields(cls)), "model")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"model: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the inverse of ``from_dict``."""
        return dataclasses.asdict(self)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def is_llama(self) -> bool:
        """Whether transformers' ``LlamaForCausalLM`` computes the same function."""
        return (
            self.positions == "rope"
            and self.norm == "rmsnorm"
            and self.mlp == "swiglu"
            and not self.bias
            and self.residual_scale == 1.0
        )

    @property
    def init_std(self) -> float:
        """Standard deviation of fresh weights."""
        return self.initializer_range or 1.0 / math.sqrt(self.hidden_size)

    def parameter_counts(self) -> dict[str, int]:
        """Parameters by part; the values sum to ``num_parameters``."""
        hidden, inner, layers = self.hidden_size, self.intermediate_size, self.num_hidden_layers
        key_value = self.num_key_value_heads * self.head_dim
        norm = hidden * (2 if self.norm == "layernorm" and self.bias else 1)
        attention = 2 * hidden * hidden + 2 * hidden * key_value
        mlp = hidden * inner * (3 if self.mlp == "swiglu" else 2)
        if self.bias:
            attention += 2 * hidden + 2 * key_value
            mlp += hidden + inner * (2 if self.mlp == "swiglu" else 1)
        counts = {
            "embed_tokens": self.vocab_size * hidden,
            "embed_positions": self.max_position_embeddings * hidden
            if self.positions == "learned"
            else 0,
            "attention": layers * attention,
            "mlp": layers * mlp,
            "norms": (2 * layers + 1) * norm,
            "lm_head": 0 if self.tie_word_embeddings else self.vocab_size * hidden,
        }
        return {part: count for part, count in counts.items() if count}

    @property
    def num_parameters(self) -> int:
        """Trainable parameters, a tied head counted once."""
        return sum(self.parameter_counts().values())

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes of key and value cache that one token takes over all layers."""
        width = self.num_key_value_heads * self.head_dim
        return 2 * self.num_hidden_layers * width * element_bytes

    def flops_per_token(self, context: int) -> int:
        """Training FLOPs of one token at a context length, forward and backward.

        6 per multiplied parameter plus 12 · layers · hidden · context for the attention scores
        (PaLM, arXiv:2204.02311, appendix B). The embedding look-up multiplies nothing, but the
        head does, tied or not.
        """
        looked_up = self.parameter_counts().get("embed_positions", 0)
        if not self.tie_word_embeddings:
            looked_up += self.vocab_size * self.hidden_size
        attention = 12 * self.num_hidden_layers * self.hidden_size * context
        return 6 * (self.num_parameters - looked_up) + attention


def _refuse_wrong_type(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise ``ValueError`` naming a field whose value is not what it is annotated as.

    YAML reads ``1e-5`` as text, and only ``1.0e-5`` as a number.
    """
    if field.type is int and (type(value) is not int or not 1 <= value < 2**31):
        raise ValueError(f"model.{field.name} must be an integer from 1 to 2^31 - 1, got {value!r}")
    if field.type is bool and type(value) is not bool:
        raise ValueError(f"model.{field.name} must be true or false, got {value!r}")
    is_number = field.type is float or (field.type == float | None and value is not None)
    if is_number and not (type(value) in (int, float) and 0.0 <= value < math.inf):
        raise ValueError(f"model.{field.name} must be a number from 0 up, got {value!r}")


_CHOICES = {
    "positions": ("rope", "learned"),
    "norm": ("rmsnorm", "layernorm"),
    "mlp": ("swiglu", "gelu", "gelu_erf"),
}

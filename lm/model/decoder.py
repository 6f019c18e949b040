"""One configurable decoder for every recipe: token ids and positions in, logits out.

``hidden`` and ``head`` are apart so that a loss can be computed in chunks and serving can apply
the head to the last rows alone. The decoder knows no cache and no mode beyond ``nn.Module``'s
training flag; what tokens see is decided by the ``attend`` that the caller passes.

Shapes: B batch, T tokens, C hidden width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from lm.model.attention import Attend, CausalAttention
from lm.model.config import ModelConfig
from lm.model.layers import Block, Rotation, make_norm
from lm.model.rotary import rotary_table


class Backbone(nn.Module):
    """Embeddings, blocks and the final norm; named ``model`` in the published weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = _undrawn(config.vocab_size, config.hidden_size)
        if config.positions == "learned":
            self.embed_positions = _undrawn(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = make_norm(config)


class Decoder(nn.Module):
    """Decoder-only transformer over ``ModelConfig``, its weights still to be given or drawn.

    ``lm.model.initialize`` draws fresh weights; ``load_state_dict`` takes published ones.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.embedding_dropout = nn.Dropout(config.dropout)
        if config.positions == "rope":
            # A plain attribute, not a buffer: a function of the config has no place in the state
            # dict, and .to(dtype) must not round its angles.
            self._rotary_table = rotary_table(
                config.max_position_embeddings, config.head_dim, config.rope_theta
            )

    def hidden(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Final hidden states.

        Args:
            token_ids: int64 [B, T].
            positions: int64 [T], or [B, T] where rows differ; each below
                ``max_position_embeddings``.
            attend: what each layer's tokens see; see ``lm.model.attention.Attend``.

        Returns:
            Normalised hidden states [B, T, C] in the dtype of the weights.

        """
        x = self.model.embed_tokens(token_ids)
        rotation = None
        if self.config.positions == "learned":
            x = x + self.model.embed_positions(positions)
        else:
            rotation = self._rotation(positions, x.dtype)
        x = self.embedding_dropout(x)
        for block in self.model.layers:
            x = block(x, rotation, attend)
        out: Tensor = self.model.norm(x)
        return out

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., C], in their dtype."""
        out: Tensor = self.lm_head(hidden)
        return out

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits [B, T, V] of whole rows under plain causal attention."""
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)
        dropout = self.config.dropout if self.training else 0.0
        return self.head(self.hidden(token_ids, positions, CausalAttention(dropout)))

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Cos and sin [B or 1, 1, T, D] at the given positions."""
        cos, sin = (table[positions].to(dtype) for table in self._rotary_table)
        shape = (-1, 1, *cos.shape[-2:])
        return cos.view(shape), sin.view(shape)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002
        """Move the rotary table along with the weights, in its own dtype; never to meta."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.config.positions == "rope":
            cos, sin = self._rotary_table
            device = self.lm_head.weight.device
            if device.type != "meta":
                self._rotary_table = (cos.to(device), sin.to(device))
        return self


def _undrawn(count: int, width: int) -> nn.Embedding:
    """An embedding without its numbers: drawing them on the meta device imports the compiler."""
    return nn.Embedding(count, width, _weight=torch.empty(count, width))


def decoder_from_weights(config: ModelConfig, weights: Mapping[str, Tensor]) -> Decoder:
    """A decoder that holds these tensors themselves, without drawing or copying anything.

    Raises ``ValueError`` naming what is missing, left over or of another shape. A tied head
    need not be there.
    """
    with torch.device("meta"):
        decoder = Decoder(config)
    given = dict(weights)
    if config.tie_word_embeddings and "model.embed_tokens.weight" in given:
        given.setdefault("lm_head.weight", given["model.embed_tokens.weight"])
    try:
        decoder.load_state_dict(given, assign=True)
    except RuntimeError as error:
        first_fault = str(error).splitlines()[1].strip()
        raise ValueError(f"weights do not fit the config: {first_fault}") from error
    if config.tie_word_embeddings:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    return decoder

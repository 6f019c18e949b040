"""A Llama decoder that computes a step in fewer kernels: what a GPU waits for is their number.

Products that read the same input are one product, queries and keys turn together, and the
residual is added where a product ends. The definition is ``lm.model.decoder``; sums are rounded
less often here. Shapes: N tokens of the step, C hidden width, Hq and Hkv heads of D numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.model.attention import Attend
from lm.model.decoder import Decoder
from lm.model.layers import Block, SwiGLU


class FusedDecoder(Decoder):
    """Holds a decoder's weights; for inference, one row of tokens at a time."""

    def __init__(self, decoder: Decoder) -> None:
        """Take over a decoder of the plain Llama shape; it is not to be used any more."""
        assert decoder.config.is_llama, "other shapes are computed as they are defined"
        nn.Module.__init__(self)
        self.config = decoder.config
        self.model = decoder.model
        self.lm_head = decoder.lm_head
        self._rotary_table = decoder._rotary_table  # noqa: SLF001
        self._layers = [_Layer(block) for block in decoder.model.layers if isinstance(block, Block)]

    def hidden(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [1, N, C] of token ids [1, N] at positions [N] or [1, N]."""
        x: Tensor = self.model.embed_tokens(token_ids[0])
        cos, sin = (table[positions.view(-1), None].to(x.dtype) for table in self._rotary_table)
        sin = torch.cat((-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]), dim=-1)
        for layer in self._layers:
            layer.add_to(x, cos, sin, attend)
        out: Tensor = self.model.norm(x)
        return out[None]


class _Layer:
    """One block, its weights joined; the block's own become views of them."""

    def __init__(self, block: Block) -> None:
        attention, mlp = block.self_attn, block.mlp
        assert isinstance(mlp, SwiGLU), "the plain Llama shape has one"
        self._layer = attention.layer
        self._head_dim = attention.head_dim
        self._num_shared = attention.v_proj.out_features // attention.head_dim
        self._norms = block.input_layernorm, block.post_attention_layernorm
        self._qkv = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self._gate_up = _joined(mlp.gate_proj, mlp.up_proj)
        self._out, self._down = attention.o_proj.weight.T, mlp.down_proj.weight.T

    def add_to(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> None:
        """Add to x [N, C] in place; cos and sin [N, 1, D], the sines of the first half negated."""
        heads = F.linear(self._norms[0](x), self._qkv).view(len(x), -1, self._head_dim)
        turning, value = heads.tensor_split((-self._num_shared,), dim=1)
        turned = torch.addcmul(turning * cos, turning.roll(self._head_dim // 2, -1), sin)
        query, key = turned.tensor_split((-self._num_shared,), dim=1)
        mixed = attend(self._layer, *(part.transpose(0, 1)[None] for part in (query, key, value)))
        x.addmm_(mixed[0].transpose(0, 1).flatten(-2), self._out)
        gate, up = F.linear(self._norms[1](x), self._gate_up).chunk(2, dim=-1)
        x.addmm_(F.silu(gate) * up, self._down)


def _joined(*projections: nn.Linear) -> Tensor:
    """Weights one below the other [sum of rows, C], in whose memory the projections' now are."""
    whole = torch.cat([projection.weight.detach() for projection in projections])
    rows = [projection.out_features for projection in projections]
    for projection, part in zip(projections, torch.split(whole, rows), strict=True):
        projection.weight = nn.Parameter(part, requires_grad=False)
    return whole

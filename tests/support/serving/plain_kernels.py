"""The steps of ``service.engine.gpu.kernel_set`` in PyTorch's operators, and draws by definition.

Every row looks at its whole slot through a mask.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.model.config import ModelConfig
from lm.sampling import SamplingParams, kept_logits
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.variant import Variant
from service.engine.gpu.tensors import DecoderWeights, KeyValues, LayerWeights, StepRows
from service.engine.scheduling.sequence import Sequence


class PlainKernels:
    """Steps that end in ``scaled_dot_product_attention``."""

    name = "plain"

    def decode(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        cache: KeyValues,
        rows: StepRows,
        logits: Tensor,
        is_finite: Tensor,
        *,
        is_long: bool,
    ) -> "_PlainDecode":
        """See ``StepKernels``; lengths do not matter here."""
        del is_long
        return _PlainDecode(_Rows(config, weights, cache, rows), logits, is_finite)

    def prefill(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        cache: KeyValues,
        rows: StepRows,
        tiles: Tensor,
        hidden: Tensor,
        tile_rows: int,
    ) -> "_PlainPrefill":
        """See ``StepKernels``; neighbours need no tiles here."""
        del tiles, tile_rows
        return _PlainPrefill(_Rows(config, weights, cache, rows), hidden)

    def head(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        hidden: Tensor,
        row_indices: Tensor,
        logits: Tensor,
        is_finite: Tensor,
    ) -> "_PlainHead":
        """See ``StepKernels``."""
        del config
        return _PlainHead(weights.head, hidden, row_indices, logits, is_finite)


class _Rows:
    """The decoder over rows of several sequences."""

    def __init__(
        self, config: ModelConfig, weights: DecoderWeights, cache: KeyValues, rows: StepRows
    ) -> None:
        self._config = config
        self.weights = weights
        self._cache = cache
        self._rows = rows
        self._places = torch.arange(cache.key.shape[3], device=cache.key.device)

    def hidden(self) -> Tensor:
        """Final hidden states [N, C]; keys and values of living rows go to the cache."""
        rows, config = self._rows, self._config
        is_dead = rows.slots < 0
        # A dead row computes something too: it writes where a sequence never gets, to the last
        # place of the slot behind all others.
        slots = torch.where(is_dead, self._cache.key.shape[1] - 1, rows.slots).long()
        positions = torch.where(is_dead, self._cache.key.shape[3] - 1, rows.positions).long()
        last = rows.last_tokens[slots.clamp(max=len(rows.last_tokens) - 1)]
        token_ids = torch.where(rows.token_ids < 0, last, rows.token_ids).long()
        x = self.weights.embedding[torch.where(is_dead, 0, token_ids)]
        places = positions.clamp(max=len(self.weights.cos) - 1)
        cos, sin = (table[places].to(x.dtype) for table in (self.weights.cos, self.weights.sin))
        mask = (self._places <= positions[:, None])[:, None, None]
        for number, layer in enumerate(self.weights.layers):
            mixed = self._attend(number, layer, x, (cos, sin), (slots, positions, mask))
            x = x + F.linear(mixed, layer.out)
            normed = F.rms_norm(x, (x.shape[-1],), layer.mlp_norm, config.norm_eps)
            gate, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        return F.rms_norm(x, (x.shape[-1],), self.weights.norm, config.norm_eps)

    def _attend(
        self,
        number: int,
        layer: LayerWeights,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        where: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Mixed values [N, Hq D] of one layer."""
        config = self._config
        slots, positions, mask = where
        normed = F.rms_norm(x, (x.shape[-1],), layer.attention_norm, config.norm_eps)
        heads = F.linear(normed, layer.qkv).unflatten(-1, (-1, config.head_dim))
        num_shared = config.num_key_value_heads
        query, key, value = heads.split((config.num_attention_heads, num_shared, num_shared), dim=1)
        query, key = _rotated(query, *rotation), _rotated(key, *rotation)
        self._cache.key[number, slots, :, positions] = key
        self._cache.value[number, slots, :, positions] = value
        keys, values = self._cache.key[number][slots], self._cache.value[number][slots]
        folded = query.unflatten(1, (num_shared, -1))  # [N, Hkv, G, D]
        return F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask).flatten(1)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads [N, H, D] by half tables [N, D / 2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class _PlainDecode:
    def __init__(self, rows: _Rows, logits: Tensor, is_finite: Tensor) -> None:
        self._rows, self._logits, self._is_finite = rows, logits, is_finite

    def compute(self) -> None:
        """One token a row."""
        hidden = self._rows.hidden()
        self._logits.copy_(F.linear(hidden, self._rows.weights.head))
        self._is_finite.copy_(hidden.isfinite().all(-1))


class _PlainPrefill:
    def __init__(self, rows: _Rows, hidden: Tensor) -> None:
        self._rows, self._hidden = rows, hidden

    def compute(self) -> None:
        """Several tokens a sequence."""
        self._hidden.copy_(self._rows.hidden())


class _PlainHead:
    def __init__(
        self, head: Tensor, hidden: Tensor, row_indices: Tensor, logits: Tensor, is_finite: Tensor
    ) -> None:
        self._head, self._hidden, self._row_indices = head, hidden, row_indices
        self._logits, self._is_finite = logits, is_finite

    def compute(self) -> None:
        """Logits of the rows that are wanted."""
        rows = self._hidden[self._row_indices.clamp(min=0).long()]
        self._logits.copy_(F.linear(rows, self._head))
        self._is_finite.copy_(rows.isfinite().all(-1))


class PlainSampler:
    """Draws row by row by ``lm.sampling``; what adjusts logits is left to the host."""

    def can_draw(self, sequence: Sequence) -> bool:
        """Whether nothing adjusts its logits."""
        request = sequence.request
        return not request.sampling.adjusts_logits and not request.min_new_tokens

    def begin(self, slot: int, sequence: Sequence) -> None:
        """Nothing is kept."""

    def compute(
        self,
        variant: Variant,
        logits: Tensor,
        rows: SamplingRows,
        tokens: Tensor,
        last_tokens: Tensor,
    ) -> None:
        """See ``Sampler``."""
        for row, slot in enumerate(rows.slots.tolist()):
            if slot < 0:
                continue
            params = SamplingParams(
                temperature=float(rows.temperatures[row]),
                top_k=int(rows.top_k[row]),
                top_p=float(rows.top_p[row]),
                min_p=math.exp(float(rows.log_min_p[row])),
            )
            assert variant.draws or params.is_greedy
            if params.is_greedy:
                token = int(logits[row].argmax())
            else:
                cumulative = kept_logits(logits[row], params).double().softmax(-1).cumsum(-1)
                threshold = float(rows.uniforms[row]) * float(cumulative[-1])
                token = int(torch.searchsorted(cumulative, threshold, right=True))
            tokens[row] = token
            last_tokens[slot] = token

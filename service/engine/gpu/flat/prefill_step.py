"""The hidden states of flat rows, prompts and guesses alike, in nine kernels a layer.

Products are cuBLAS's, what lies between them Triton's. Nothing waits for the device and nothing is
allocated, so that a step can be recorded in a CUDA graph. The definition is ``lm.model.decoder``.

Shapes: N rows, M tiles, C hidden width, I width of the MLP, Hq and Hkv heads of D numbers.
"""

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.availability import why_no_shape
from service.engine.gpu.flat.prefill_attention import ProgramShape, TileAttention
from service.engine.gpu.flat.rotate_write import rotate_write
from service.engine.gpu.flat.rowwise import add_norm, embed_norm, silu_mul
from service.engine.gpu.kernels.launch import Launch
from service.engine.gpu.tensors import DecoderWeights, KeyValues, LayerWeights, StepRows

PLAIN = Launch(dependent=False)
"""The kernels lie between products of cuBLAS, which do not start early."""


class PrefillStep:
    """One step of N rows; its tensors are read and written in place at each ``compute``."""

    def __init__(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        cache: KeyValues,
        rows: StepRows,
        tiles: Tensor,
        hidden: Tensor,
        tile_rows: int,
        shape: ProgramShape | None = None,
    ) -> None:
        """Make the workspaces.

        Args:
            config: a shape that ``availability.why_no_shape`` has nothing against.
            weights: of that shape.
            cache: receives the rows' keys and values.
            rows: N rows. Those with slot -1 write no cache; their hidden states mean nothing.
            tiles: int32 [M, 2], see ``prefill_attention``: they cover the rows that have
                a slot, each once.
            hidden: [N, C] in the dtype of the weights: receives the normalised hidden states.
            tile_rows: the most rows that a tile has.
            shape: of the attention's programs; by default what suits tiles of this length.

        """
        assert why_no_shape(config) is None
        self._weights = weights
        self._cache = cache
        self._rows = rows
        heads, cached = config.num_attention_heads, cache.key.shape[1:]
        self._attend = TileAttention(rows, tiles, tile_rows, heads, cached, shape)
        self._eps = config.norm_eps
        self._hidden = hidden
        count = len(hidden)
        query = config.num_attention_heads * config.head_dim
        joined = query + 2 * config.num_key_value_heads * config.head_dim
        self._x = hidden.new_zeros(count, config.hidden_size, dtype=torch.float32)
        self._normed = hidden.new_zeros(count, config.hidden_size)
        self._delta = hidden.new_zeros(count, config.hidden_size)
        self._qkv = hidden.new_zeros(count, joined)
        self._mixed = hidden.new_zeros(count, query)
        self._gate_up = hidden.new_zeros(count, 2 * config.intermediate_size)
        self._gated = hidden.new_zeros(count, config.intermediate_size)

    def compute(self) -> None:
        """Launch the step: keys and values into the cache, hidden states into ``hidden``."""
        weights = self._weights
        layers = weights.layers
        first = layers[0].attention_norm
        embed_norm(self._rows, weights.embedding, first, self._eps, self._x, self._normed)
        for index, layer in enumerate(layers):
            self._attention(index, layer)
            add_norm(self._x, self._delta, layer.mlp_norm, self._eps, self._normed)
            self._mlp(layer)
            if index + 1 < len(layers):
                following = layers[index + 1].attention_norm
                add_norm(self._x, self._delta, following, self._eps, self._normed)
        add_norm(self._x, self._delta, weights.norm, self._eps, self._hidden)

    def _attention(self, index: int, layer: LayerWeights) -> None:
        """Of the normalised rows into delta."""
        key, value = self._cache.key[index], self._cache.value[index]
        torch.mm(self._normed, layer.qkv.T, out=self._qkv)
        rotate_write(self._qkv, self._weights.cos, self._weights.sin, self._rows, key, value, PLAIN)
        self._attend.compute(self._qkv, key, value, self._mixed, PLAIN)
        torch.mm(self._mixed, layer.out.T, out=self._delta)

    def _mlp(self, layer: LayerWeights) -> None:
        """Of the normalised rows into delta."""
        torch.mm(self._normed, layer.gate_up.T, out=self._gate_up)
        silu_mul(self._gate_up, self._gated)
        torch.mm(self._gated, layer.down.T, out=self._delta)

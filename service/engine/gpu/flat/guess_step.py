"""The hidden states of a few flat rows, guesses and short chunks, in six kernels a layer.

The products of the decode step, with norm, gate and residual inside them, around the attention of
tiles. ``prefill_step`` computes the same; it is faster where rows are many.

Shapes: N rows, M tiles, C hidden width.
"""

import torch
import triton
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.availability import why_no_shape
from service.engine.gpu.flat.prefill_attention import ProgramShape, TileAttention
from service.engine.gpu.flat.rotate_write import rotate_write
from service.engine.gpu.kernels.beside_cublas import normalize
from service.engine.gpu.kernels.choices import Choices, default_choices
from service.engine.gpu.kernels.embedding import embed
from service.engine.gpu.kernels.launch import Launch
from service.engine.gpu.kernels.products import Product, Scratch, multiply
from service.engine.gpu.tensors import DecoderWeights, KeyValues, LayerWeights, StepRows


class GuessStep:
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
        choices: Choices | None = None,
        launch: Launch | None = None,
    ) -> None:
        """Make the workspaces.

        Args:
            config: a shape that ``availability.why_no_shape`` has nothing against.
            weights: of that shape.
            cache: receives the rows' keys and values.
            rows: see ``PrefillStep``.
            tiles: see ``PrefillStep``.
            hidden: [N, C] in the dtype of the weights: receives the normalised hidden states.
            tile_rows: the most rows that a tile has.
            shape: of the attention's programs; by default what suits tiles of this length.
            choices: kernels of the products; by default those of ``default_choices``.
            launch: by default the best way that the device has.

        """
        assert why_no_shape(config) is None
        count = len(hidden)
        self._config, self._weights, self._cache, self._rows = config, weights, cache, rows
        self._hidden = hidden
        self._launch = launch or Launch.on(hidden.device)
        self._choices = choices or default_choices(config, count)
        heads, cached = config.num_attention_heads, cache.key.shape[1:]
        self._attend = TileAttention(rows, tiles, tile_rows, heads, cached, shape)
        query = heads * config.head_dim
        joined = query + 2 * config.num_key_value_heads * config.head_dim
        self._x = hidden.new_zeros(count, config.hidden_size)
        self._qkv = hidden.new_zeros(count, joined)
        self._mixed = hidden.new_zeros(count, query)
        self._gated = hidden.new_zeros(count, config.intermediate_size)
        self._scratch = Scratch(
            normed=torch.zeros_like(hidden),
            wide=hidden.new_zeros(count, 2 * config.intermediate_size),
        )

    def compute(self) -> None:
        """Launch the step: keys and values into the cache, hidden states into ``hidden``."""
        embed(self._launch, self._rows, self._weights.embedding, self._x)
        for index, layer in enumerate(self._weights.layers):
            self._layer(layer, self._cache.key[index], self._cache.value[index])
        count, width = self._hidden.shape
        normalize[(count,)](
            self._x, self._weights.norm, self._hidden, self._hidden, self._config.norm_eps,
            K=width, KP=triton.next_power_of_2(width), FINITE=False, **self._launch.options(4),
        )  # fmt: skip

    def _layer(self, layer: LayerWeights, key: Tensor, value: Tensor) -> None:
        """Attention and MLP of one layer, added to x."""
        eps, x = self._config.norm_eps, self._x
        qkv = Product(x=x, weight=layer.qkv, out=self._qkv, norm=layer.attention_norm, eps=eps)
        out = Product(x=self._mixed, weight=layer.out, out=x, residual=True)
        gate_up = Product(
            x=x, weight=layer.gate_up, out=self._gated, norm=layer.mlp_norm, eps=eps, gated=True
        )
        down = Product(x=self._gated, weight=layer.down, out=x, residual=True)
        tables = self._weights.cos, self._weights.sin
        multiply(self._launch, self._choices.qkv, qkv, self._scratch)
        rotate_write(self._qkv, *tables, self._rows, key, value, self._launch)
        self._attend.compute(self._qkv, key, value, self._mixed, self._launch)
        multiply(self._launch, self._choices.out, out, self._scratch)
        multiply(self._launch, self._choices.gate_up, gate_up, self._scratch)
        multiply(self._launch, self._choices.down, down, self._scratch)

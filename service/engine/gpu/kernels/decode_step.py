"""One decode step in five kernels a layer: every row is one token of another slot.

Shapes are those of ``service.engine.gpu.tensors``; B rows, C hidden width, V vocabulary.
"""

import torch
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.availability import why_no_shape
from service.engine.gpu.kernels.choices import Choices, default_choices
from service.engine.gpu.kernels.decode_attention import Splits, attend
from service.engine.gpu.kernels.embedding import embed
from service.engine.gpu.kernels.launch import Launch
from service.engine.gpu.kernels.products import Merge, Product, Scratch, multiply
from service.engine.gpu.tensors import DecoderWeights, KeyValues, LayerWeights, StepRows


class DecodeStep:
    """Launches the kernels of a step; what it reads and writes is given once."""

    def __init__(
        self,
        config: ModelConfig,
        weights: DecoderWeights,
        cache: KeyValues,
        rows: StepRows,
        logits: Tensor,
        is_finite: Tensor,
        choices: Choices | None = None,
        launch: Launch | None = None,
    ) -> None:
        """Make the workspaces.

        Args:
            config: a shape that ``availability.why_no_shape`` has nothing against.
            weights: read by every step, so that new numbers may be copied in between.
            cache: read and written at the rows' slots and positions.
            rows: B tokens, each of another slot.
            logits: float32 [B, V], written.
            is_finite: bool or int8 [B], written: whether a row's final hidden state is finite.
            choices: kernels and tiles; by default those of ``default_choices``.
            launch: by default the best way that the device has.

        """
        assert why_no_shape(config) is None
        count, device, dtype = rows.token_ids.shape[0], logits.device, weights.embedding.dtype
        self.choices = choices or default_choices(config, count)
        self._config, self._weights, self._cache, self._rows = config, weights, cache, rows
        self._logits, self._is_finite = logits, is_finite.view(torch.int8)
        self._launch = launch or Launch.on(device)

        def empty(width: int) -> Tensor:
            return torch.zeros(count, width, dtype=dtype, device=device)

        query = config.num_attention_heads * config.head_dim
        shared = config.num_key_value_heads * config.head_dim
        self._x, self._qkv = empty(config.hidden_size), empty(query + 2 * shared)
        self._attended, self._inner = empty(query), empty(config.intermediate_size)
        self._splits = Splits.empty(config, count, self.choices.attention.splits, device)
        uses_cublas = "cublas" in (self.choices.qkv.form, self.choices.head.form)
        gates_cublas = self.choices.gate_up.form == "cublas"
        self._scratch = Scratch(
            normed=empty(config.hidden_size if uses_cublas or gates_cublas else 0),
            wide=empty(2 * config.intermediate_size if gates_cublas else 0),
        )

    @property
    def hidden(self) -> Tensor:
        """The residual stream after the last step, before the final norm: [B, C]."""
        return self._x

    def compute(self) -> None:
        """Launch a step: no host sync and no allocation, so that a graph can record it."""
        embed(self._launch, self._rows, self._weights.embedding, self._x)
        for index, layer in enumerate(self._weights.layers):
            self._layer(layer, self._cache.key[index], self._cache.value[index])
        head = Product(
            x=self._x,
            weight=self._weights.head,
            out=self._logits,
            norm=self._weights.norm,
            eps=self._config.norm_eps,
            is_finite=self._is_finite,
        )
        multiply(self._launch, self.choices.head, head, self._scratch)

    def _layer(self, layer: LayerWeights, keys: Tensor, values: Tensor) -> None:
        """Attention and MLP of one layer; keys and values are [S, Hkv, T, D]."""
        config, choices, eps = self._config, self.choices, self._config.norm_eps
        merges_late = choices.out.form == "sums"
        merge = None
        if merges_late:
            merge = Merge(self._splits, self._rows, choices.attention.keys, config.head_dim)
        qkv = Product(
            x=self._x, weight=layer.qkv, out=self._qkv, norm=layer.attention_norm, eps=eps
        )
        out = Product(x=self._attended, weight=layer.out, out=self._x, residual=True, merge=merge)
        gate_up = Product(
            x=self._x,
            weight=layer.gate_up,
            out=self._inner,
            norm=layer.mlp_norm,
            eps=eps,
            gated=True,
        )
        down = Product(x=self._inner, weight=layer.down, out=self._x, residual=True)
        multiply(self._launch, choices.qkv, qkv, self._scratch)
        attend(
            self._launch,
            choices.attention,
            config,
            self._rows,
            (self._weights.cos, self._weights.sin),
            self._qkv,
            keys,
            values,
            self._attended,
            self._splits,
            merge=not merges_late,
        )
        multiply(self._launch, choices.out, out, self._scratch)
        multiply(self._launch, choices.gate_up, gate_up, self._scratch)
        multiply(self._launch, choices.down, down, self._scratch)

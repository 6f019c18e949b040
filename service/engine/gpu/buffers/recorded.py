"""Steps of fixed sizes, each recorded once with the tensors that it reads and writes."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.buffers.outputs import Outputs
from service.engine.gpu.inputs import Array, Field, PackedInputs
from service.engine.gpu.kernel_set import Sampler, Step, StepKernels
from service.engine.gpu.layout import Bucket, FlatLayout
from service.engine.gpu.sampling.rows import SamplingRows
from service.engine.gpu.sampling.table import sampling_fields
from service.engine.gpu.sampling.variant import Variant
from service.engine.gpu.tensors import DecoderWeights, KeyValues, StepRows

Compute = Callable[[], None]
Record = Callable[[Compute], Compute]
"""Runs a function in order to record it; what it gives does the same again."""
RECORDED_VARIANTS = (Variant.GREEDY, Variant.TEMPERATURE, Variant.FILTERED)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Shared:
    """What all steps of one set of weights have in common."""

    config: ModelConfig
    weights: DecoderWeights
    cache: KeyValues
    last_tokens: Tensor
    """int32 [S]."""
    logits: Tensor
    """float32 [R, V] for the most rows of any step."""
    kernels: StepKernels
    sampler: Sampler
    record: Record

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.logits.device


class Drawing:
    """Draws from the first rows of the logits."""

    def __init__(self, shared: Shared, inputs: PackedInputs, outputs: Outputs) -> None:
        """Record the variants that most steps need; others are launched as they come."""
        self.outputs = outputs
        self._shared = shared
        self._rows = SamplingRows(
            **{field.name: inputs.tensors[field.name] for field in dataclasses.fields(SamplingRows)}
        )
        self._logits = shared.logits[: len(outputs.tokens)]
        self.replays = {
            variant: shared.record(functools.partial(self._draw, variant))
            for variant in RECORDED_VARIANTS
        }

    def _draw(self, variant: Variant) -> None:
        shared, tokens = self._shared, self.outputs.tokens
        shared.sampler.compute(variant, self._logits, self._rows, tokens, shared.last_tokens)

    def replay(self, variant: Variant) -> None:
        """Draw, and send what was drawn to the host."""
        replay = self.replays.get(variant)
        if replay is None:
            self._draw(variant)
        else:
            replay()
        self.outputs.send()


class RecordedDecode:
    """One token of each of up to ``rows`` sequences: forward, then the draw."""

    def __init__(self, shared: Shared, rows: int, *, is_long: bool) -> None:
        fields = sampling_fields(rows)
        fields |= {name: Field("i4", (rows,)) for name in ("token_ids", "positions")}
        self.inputs = PackedInputs(fields, shared.device)
        self.logits = shared.logits[:rows]
        outputs = Outputs(rows, shared.device)
        tensors = self.inputs.tensors
        tensors["slots"].fill_(-1)
        step_rows = StepRows(
            token_ids=tensors["token_ids"],
            positions=tensors["positions"],
            slots=tensors["slots"],
            last_tokens=shared.last_tokens,
        )
        step = shared.kernels.decode(
            shared.config,
            shared.weights,
            shared.cache,
            step_rows,
            self.logits,
            outputs.is_finite,
            is_long=is_long,
        )
        self._step = step  # what is recorded writes to its workspaces
        self.forward = shared.record(step.compute)
        self.drawing = Drawing(shared, self.inputs, outputs)

    def replay(self, variant: Variant) -> None:
        """Send the inputs that were filled, compute and draw."""
        self.inputs.send()
        self.forward()
        self.drawing.replay(variant)


class RecordedFlat:
    """Chunks of several tokens, laid out in one row; writes hidden states alone."""

    def __init__(self, shared: Shared, bucket: Bucket, hidden: Tensor) -> None:
        fields = {name: Field("i4", (bucket.rows,)) for name in ("token_ids", "positions", "slots")}
        fields["tiles"] = Field("i4", (bucket.tiles, 2))
        self._inputs = PackedInputs(fields, shared.device)
        tensors = self._inputs.tensors
        tensors["slots"].fill_(-1)
        rows = StepRows(
            token_ids=tensors["token_ids"],
            positions=tensors["positions"],
            slots=tensors["slots"],
            last_tokens=shared.last_tokens,
        )
        step: Step = shared.kernels.prefill(
            shared.config,
            shared.weights,
            shared.cache,
            rows,
            tensors["tiles"],
            hidden[: bucket.rows],
            bucket.tile_rows,
        )
        self._step = step  # what is recorded writes to its workspaces
        self.forward = shared.record(step.compute)

    def replay(self, layout: FlatLayout) -> None:
        """Compute the hidden states of a layout of this bucket."""
        arrays = self._inputs.begin()
        for name in ("token_ids", "positions", "slots", "tiles"):
            arrays[name][:] = getattr(layout, name)
        self._inputs.send()
        self.forward()


class RecordedHead:
    """Logits of up to ``rows`` rows of the hidden states, then the draw."""

    def __init__(self, shared: Shared, rows: int, hidden: Tensor) -> None:
        fields = sampling_fields(rows) | {"row_indices": Field("i4", (rows,))}
        self.inputs = PackedInputs(fields, shared.device)
        self.logits = shared.logits[:rows]
        outputs = Outputs(rows, shared.device)
        self.inputs.tensors["slots"].fill_(-1)
        step = shared.kernels.head(
            shared.config,
            shared.weights,
            hidden,
            self.inputs.tensors["row_indices"],
            self.logits,
            outputs.is_finite,
        )
        self._step = step  # what is recorded writes to its workspaces
        self.forward = shared.record(step.compute)
        self.drawing = Drawing(shared, self.inputs, outputs)

    def replay(
        self, arrays: dict[str, Array], row_indices: npt.NDArray[np.int32], variant: Variant
    ) -> None:
        """Compute the logits of some hidden states, and draw."""
        arrays["row_indices"][: len(row_indices)] = row_indices
        arrays["row_indices"][len(row_indices) :] = -1
        self.inputs.send()
        self.forward()
        self.drawing.replay(variant)

"""Runs plans on a device that draws and feeds tokens back by itself: launched now, read later."""

import itertools
from collections.abc import Iterator
from collections.abc import Sequence as Items
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lm.model.config import ModelConfig
from service.engine.gpu.buffers.recorded import RecordedDecode, RecordedHead
from service.engine.gpu.buffers.weight_set import HEAD_ROWS, WeightSet
from service.engine.gpu.definition import plain_logits
from service.engine.gpu.launched import Launched, Part, keep_logits
from service.engine.gpu.layout import FlatChunk, bucket_for, lay_out, split
from service.engine.gpu.sampling.table import SamplingTable
from service.engine.pytorch.cache import SlotCache
from service.engine.pytorch.runner import StepOutput
from service.engine.scheduling.plan import Chunk, Plan
from service.engine.scheduling.sequence import Sequence
from service.engine.scheduling.slots import SlotPool

PROBE_LENGTH = 8
"""Tokens of the text that a model is warmed up with."""


class _Draw(NamedTuple):
    """Where a yielding row's token goes."""

    chunk: int
    """Number in the plan."""
    slot: int
    place: int
    """Index of the token in its output."""


class GpuRunner:
    """One model in a set of weight buffers, over a cache that another model may share."""

    def __init__(
        self, weight_set: WeightSet, cache: SlotCache, slots: SlotPool, *, is_alone: bool = False
    ) -> None:
        """``is_alone`` computes beside whatever else the device does, on the set's own stream."""
        self.weight_set = weight_set
        self._table = SamplingTable(cache.num_slots + 1)
        self._sampler = weight_set.shared.sampler
        self._is_alone = is_alone
        self.cache = cache
        self.slots = slots

    @property
    def config(self) -> ModelConfig:
        """Shape of the decoder."""
        return self.weight_set.shared.config

    def draws_on_host(self, sequence: Sequence) -> bool:
        """Whether a sequence's tokens can only be drawn on the host."""
        return sequence.constraint is not None or not self._sampler.can_draw(sequence)

    def alone(self) -> "GpuRunner":
        """A runner over the same weights whose only slot is the one that no sequence gets."""
        slots = SlotPool(1, first=self.cache.num_slots)
        return GpuRunner(self.weight_set, self.cache, slots, is_alone=True)

    @torch.inference_mode()
    def launch(self, plan: Plan, *, wants_all: bool = False) -> Launched:
        """Begin to compute a plan: first chunks of several tokens, then single tokens.

        The result has the logits that sequences want, or those of all.
        """
        if self._is_alone:
            with self.weight_set.on_its_stream():
                return self._launch(plan, wants_all=wants_all)
        return self._launch(plan, wants_all=wants_all)

    def _launch(self, plan: Plan, *, wants_all: bool) -> Launched:
        for sequence in plan.started:
            assert sequence.slot is not None, "a started sequence holds a slot"
            self._sampler.begin(sequence.slot, sequence)
            request = sequence.request
            self._table.begin(
                sequence.slot, request.sampling, min_new_tokens=request.min_new_tokens
            )
        num_draws = [chunk.num_draws for chunk in plan.chunks]
        wanted = {
            n for n, chunk in enumerate(plan.chunks) if wants_all or chunk.sequence.wants_logits
        }
        decoding: list[int] = []
        flat: list[int] = []
        for number, (chunk, draws_of) in enumerate(zip(plan.chunks, num_draws, strict=True)):
            is_single = chunk.end - chunk.start == 1 and (draws_of == 1 or chunk.scores_prompt)
            (decoding if is_single else flat).append(number)
        parts: list[Part] = []
        if flat:
            draws = [
                _Draw(number, plan.chunks[number].slot, index)
                for number in flat
                for index in _indices(plan.chunks[number])
            ]
            parts += self._launch_flat([_flat(plan.chunks[n]) for n in flat], draws, wanted)
        if decoding:
            inputs = [_input(plan.chunks[number]) for number in decoding]
            parts.append(self._launch_decode(inputs, decoding, wanted))
        return Launched(
            plan.chunks, num_draws, sorted(wanted), parts, self.cache.key.device, self.draws_on_host
        )

    def run(self, plan: Plan) -> StepOutput:
        """Compute a plan and wait for all of its logits."""
        result = self.launch(plan, wants_all=True).collect()
        wanted = [n for n, chunk in enumerate(plan.chunks) if chunk.num_logits]
        logits = [result.logits(number).to(self.cache.key.device) for number in wanted]
        none = self.weight_set.shared.logits[:0]
        return StepOutput(torch.cat(logits) if logits else none, tuple(result.is_finite))

    @torch.inference_mode()
    def score(self, token_ids: Items[int]) -> Tensor:
        """Logits [T, V] after each token of a text, by the definition."""
        with self.weight_set.on_its_stream():
            ids = torch.tensor(list(token_ids), device=self.cache.key.device)
            return plain_logits(self.config, self.weight_set.weights, ids)

    @torch.inference_mode()
    def run_alone(self, token_ids: Items[int], num_prompt: int) -> Tensor:
        """Logits [1 + T - num_prompt, V] of a text through the recorded steps, on the host.

        Its first tokens are one prompt, each other one a step, in the slot that no sequence has.
        """
        slot, token_ids = self.cache.num_slots, list(token_ids)
        prompt = FlatChunk(slot, 0, token_ids[:num_prompt], 1)
        with self.weight_set.on_its_stream():
            rows = [self._launch_flat([prompt], [_Draw(0, slot, 0)], {0})[-1].kept[0][1]]
        for position in range(num_prompt, len(token_ids)):
            with self.weight_set.on_its_stream():  # the inputs are used again when it is done
                part = self._launch_decode([(token_ids[position], position, slot, 0)], [0], {0})
                rows.append(part.kept[0][1])
        return torch.cat(rows)

    @torch.inference_mode()
    def run_every_step(self, token_ids: Items[int]) -> Iterator[tuple[str, Tensor]]:
        """Name of each recorded step, and the logits [R, V] that it gives a text's last token.

        All rows of a decoding step compute that token in the slot that no sequence has; a flat step
        computes the whole text, and the heads take turns behind it. Logits are on the device, and
        valid until the next step is asked for.
        """
        slot, last = self.cache.num_slots, len(token_ids) - 1
        text = FlatChunk(slot, 0, list(token_ids), 1)
        heads = itertools.cycle(self.weight_set.heads.values())
        for bucket, flat in self.weight_set.flats.items():
            if bucket.rows < len(token_ids):
                continue
            head = next(heads)
            with self.weight_set.on_its_stream():
                layout = lay_out([text], bucket)
                flat.replay(layout)
                self._replay_head(head, [_Draw(0, slot, 0)], layout.yielding)
            yield f"flat {bucket.rows}", head.logits[:1]
        for rows, tokens, step in self.weight_set.decodes:
            with self.weight_set.on_its_stream():
                self._replay_decode(step, [(token_ids[last], last, slot, 0)] * rows)
            yield f"decode {rows} up to {tokens}", step.logits

    def warm_up(self) -> None:
        """Run a prompt and a decoding step."""
        length = min(PROBE_LENGTH, self.cache.max_tokens)
        self.run_alone([0] * length, max(1, length - 1))

    def _launch_decode(
        self, inputs: list[tuple[int, int, int, int]], numbers: list[int], wanted: set[int]
    ) -> Part:
        """One token of each of some chunks; ``wanted`` are those whose logits the host wants."""
        reach = max(position for _, position, _, _ in inputs)
        step = next(
            step
            for rows, tokens, step in self.weight_set.decodes
            if rows >= len(numbers) and tokens > reach
        )
        self._replay_decode(step, inputs)
        kept = keep_logits(step.logits, numbers, wanted)
        return Part(numbers, step.drawing.outputs.latest(), kept)

    def _replay_decode(self, step: RecordedDecode, inputs: list[tuple[int, int, int, int]]) -> None:
        token_ids, positions, slots, indices = np.array(inputs, dtype=np.int64).T
        arrays = step.inputs.begin()
        arrays["token_ids"][: len(inputs)] = token_ids
        arrays["positions"][: len(inputs)] = positions
        step.replay(self._table.fill(arrays, slots, indices))

    def _launch_flat(
        self, flat: list[FlatChunk], draws: list[_Draw], wanted: set[int]
    ) -> list[Part]:
        """Chunks of several tokens each, and the draws that follow them."""
        parts: list[Part] = []
        buckets = self.weight_set.flat_buckets
        for together in split(flat, buckets[-1]):
            total = sum(len(chunk.token_ids) for chunk in together)
            bucket = bucket_for(total, len(together), buckets)
            layout = lay_out(together, bucket)
            self.weight_set.flats[bucket].replay(layout)
            for first in range(0, len(layout.yielding), HEAD_ROWS[-1]):
                row_indices = layout.yielding[first : first + HEAD_ROWS[-1]]
                now, draws = draws[: len(row_indices)], draws[len(row_indices) :]
                parts.append(self._launch_head(now, row_indices, wanted))
        return parts

    def _launch_head(
        self, draws: list[_Draw], row_indices: npt.NDArray[np.int32], wanted: set[int]
    ) -> Part:
        """Logits of some hidden states of a flat step, and the draws from them."""
        step = next(step for size, step in self.weight_set.heads.items() if size >= len(draws))
        self._replay_head(step, draws, row_indices)
        of_rows = [draw.chunk for draw in draws]
        kept = keep_logits(step.logits, of_rows, wanted)
        return Part(of_rows, step.drawing.outputs.latest(), kept)

    def _replay_head(
        self, step: RecordedHead, draws: list[_Draw], row_indices: npt.NDArray[np.int32]
    ) -> None:
        arrays = step.inputs.begin()
        _, slots, indices = np.array(draws, dtype=np.int64).T
        step.replay(arrays, row_indices, self._table.fill(arrays, slots, indices))


def _input(chunk: Chunk) -> tuple[int, int, int, int]:
    """Token (-1 is the slot's last drawn one), position, slot and index of a single token."""
    sequence, position = chunk.sequence, chunk.start
    output_ids = sequence.output_ids
    num_read = len(output_ids)
    behind = position - sequence.num_prompt
    if behind >= num_read:
        token_id = -1
    elif behind >= 0:
        token_id = output_ids[behind]
    else:
        token_id = sequence.request.prompt_ids[position]
    return token_id, position, chunk.slot, num_read + sequence.num_pending


def _indices(chunk: Chunk) -> range:
    """Index in the output of what is drawn from each of a chunk's yielding rows.

    Below 0 where the next token is known, which is a scored prompt's.
    """
    sequence = chunk.sequence
    first = len(sequence.output_ids) + sequence.num_pending
    return range(first + chunk.num_draws - chunk.num_logits, first + chunk.num_draws)


def _flat(chunk: Chunk) -> FlatChunk:
    token_ids = list(chunk.token_ids)
    if len(token_ids) < chunk.num_tokens:  # the last one has not been read yet
        token_ids.append(-1)
    return FlatChunk(chunk.slot, chunk.start, token_ids, chunk.num_logits)

"""How gradients become updates: fused AdamW, or Muon on the hidden matrices beside it.

``Optimizer`` is one face over one or two ``torch.optim`` optimizers. Learning rates and weight
decay arrive with every step (they belong to the schedule and the phase), so its state is the
moments alone: tensors named by parameter, which a checkpoint holds without a pickle.
A gradient that is not finite never reaches a weight or a moment. On a CPU the host looks first; a
GPU decides for itself, inside the update, and the host learns of it when it reads the outcome.

Muon is ``trainer.step.muon``'s.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from trainer.recipe.sections import OptimizerConfig, PhaseConfig
from trainer.step.muon import Muon

_NORM_EPS = 1e-6
"""As ``torch.nn.utils.clip_grad_norm_`` has it."""
NamedParameters = list[tuple[str, nn.Parameter]]


@dataclasses.dataclass(frozen=True)
class Rates:
    """What one optimizer step multiplies its updates by."""

    lr: float
    muon_lr: float
    weight_decay: float


def rates_at(config: OptimizerConfig, phase: PhaseConfig, factor: float) -> Rates:
    """Rates of a phase at a schedule's factor; a phase's own peak scales Muon's along."""
    peak = config.lr if phase.lr is None else phase.lr
    decay = config.weight_decay if phase.weight_decay is None else phase.weight_decay
    return Rates(peak * factor, config.muon_lr * (peak / config.lr) * factor, decay)


@dataclasses.dataclass(frozen=True)
class Stepped:
    """What a step came to, as tensors that nobody has waited for."""

    norm: Tensor
    """Global gradient norm after the division and before clipping, float64 []."""
    skipped: Tensor
    """Bool []: loss or norm was not finite, and no weight and no moment was touched."""


class Optimizer:
    """Updates the named parameters of a decoder (a tied head is one parameter)."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        dtype: torch.dtype = torch.float32,
        *,
        reads_back: bool = True,
    ) -> None:
        """Lay out the updates.

        Args:
            named_parameters: what to update.
            config: how.
            dtype: of the run's matrix products, Muon's among them.
            reads_back: whether the host looks at each step before it updates anything; otherwise
                the device decides by itself.

        """
        named = list(named_parameters)
        self._parameters = [parameter for _, parameter in named]
        self._reads_back = reads_back
        self._max_norm = math.inf if config.grad_clip is None else config.grad_clip
        matrices = [pair for pair in named if config.name == "muon" and _is_hidden_matrix(*pair)]
        taken = {name for name, _ in matrices}
        others = [pair for pair in named if pair[0] not in taken]
        self._parts: list[tuple[torch.optim.Optimizer, NamedParameters]] = [
            (_adamw(others, config), others)
        ]
        if matrices:
            muon = _muon(matrices, config, dtype)
            self._parts.append((muon, matrices))

    @torch.no_grad()
    def step(self, rates: Rates, divisor: float = 1.0, loss: Tensor | None = None) -> Stepped:
        """Divide the gradients, clip them and update the weights, if all is finite.

        Args:
            rates: what the updates are multiplied by.
            divisor: what the gradients are too large by: tokens of a sum, an fp16 loss scale.
            loss: of the step, []; one that is not finite skips the step.

        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients).double() / divisor
        usable = norm.isfinite() if loss is None else norm.isfinite() & loss.isfinite()
        stepped = Stepped(norm, usable.logical_not())
        if self._reads_back and not bool(usable):
            return stepped
        excess = ((norm + _NORM_EPS) / self._max_norm).clamp(min=1.0)
        scale = (divisor * excess).float()
        found_inf = None if self._reads_back else stepped.skipped.float()
        for optimizer, _ in self._parts:
            is_muon = isinstance(optimizer, Muon)
            for group in optimizer.param_groups:
                group["lr"] = rates.muon_lr if is_muon else rates.lr
                group["weight_decay"] = rates.weight_decay if group["decays"] else 0.0
            # The two attributes by which a gradient scaler reaches a fused step, which divides in
            # its own pass over the gradients.
            vars(optimizer).update(grad_scale=scale, found_inf=found_inf)
            optimizer.step()
        return stepped

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def state_tensors(self) -> dict[str, Tensor]:
        """The moments as they are (not copies), named ``<parameter>/<moment>``."""
        return {
            f"{name}/{key}": tensor
            for optimizer, named in self._parts
            for name, parameter in named
            for key, tensor in optimizer.state.get(parameter, {}).items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over copies of saved moments; raises ``ValueError`` for what no update can use."""
        owners = {
            name: (optimizer, parameter)
            for optimizer, named in self._parts
            for name, parameter in named
        }
        for path, tensor in tensors.items():
            name, _, key = path.rpartition("/")
            if name not in owners:
                raise ValueError(f"optimizer state of {name!r}, which this model does not have")
            optimizer, parameter = owners[name]
            if key != "step" and tensor.shape != parameter.shape:
                raise ValueError(f"optimizer state {path!r} has another shape than its parameter")
            optimizer.state[parameter][key] = tensor.to(parameter.device, copy=True)
        for name, (optimizer, parameter) in owners.items():
            found = {*optimizer.state.get(parameter, {})}
            whole = _ADAMW if isinstance(optimizer, torch.optim.AdamW) else _MUON
            if found not in (set(), whole):
                raise ValueError(f"optimizer state of {name!r} is {', '.join(sorted(found))}")


_ADAMW, _MUON = {"step", "exp_avg", "exp_avg_sq"}, {"momentum_buffer"}
"""What each keeps of a parameter, once that was updated."""


def _adamw(named: NamedParameters, config: OptimizerConfig) -> torch.optim.Optimizer:
    groups = [
        {"params": members, "decays": decays}
        for decays in (True, False)
        if (members := [p for name, p in named if _decays(name, p, config) is decays])
    ]
    # Fused must be asked for: the default on CPUs is one slow loop per parameter.
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _muon(
    named: NamedParameters, config: OptimizerConfig, dtype: torch.dtype
) -> torch.optim.Optimizer:
    group = {"params": [parameter for _, parameter in named], "decays": True}
    return Muon([group], lr=config.muon_lr, momentum=config.muon_momentum, dtype=dtype)


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon may have it: matrices between the embedding and the head."""
    return ".layers." in name and parameter.ndim == 2


def _decays(name: str, parameter: nn.Parameter, config: OptimizerConfig) -> bool:
    """Whether weight decay applies: to matrices that are no embedding, or to all."""
    return config.decay_all or (parameter.ndim >= 2 and ".embed_" not in name)

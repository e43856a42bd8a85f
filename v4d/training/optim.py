"""Optimiser, parameter groups and schedules (section 4.1 of the paper, and the released settings)."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from v4d.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from v4d.models.base import BatchNorm, VideoModel

NORMS = (BatchNorm, nn.LayerNorm, nn.GroupNorm)


def parameter_groups(model: nn.Module, settings: OptimizerConfig) -> list[dict[str, Any]]:
    """Three groups: weights (decayed), biases (rate times `bias_lr_factor`), batch norm.

    Biases and batch norm are not decayed unless `decay_norm_and_bias`. What is frozen
    (`requires_grad` false) is in no group. Each group has a "name" and a "factor" on the learning rate.
    Parameters that the network gives a rate of their own (`lr_factors`) are further groups, as batch norm.
    """
    weights, biases, norms = [], [], []
    factors: dict[str, float] = model.lr_factors() if isinstance(model, VideoModel) else {}
    special: dict[float, list[nn.Parameter]] = {}
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            factor = factors.get(f"{place}.{name}")
            if factor is not None:
                special.setdefault(factor, []).append(parameter)
            elif isinstance(module, NORMS):
                norms.append(parameter)
            elif name == "bias":
                biases.append(parameter)
            else:
                weights.append(parameter)
    rest_decay = settings.weight_decay if settings.decay_norm_and_bias else 0.0
    groups = [
        {"name": "weights", "params": weights, "factor": 1.0, "weight_decay": settings.weight_decay},
        {"name": "biases", "params": biases, "factor": settings.bias_lr_factor, "weight_decay": rest_decay},
        {"name": "norms", "params": norms, "factor": 1.0, "weight_decay": rest_decay},
        *(
            {"name": f"rate x {factor:g}", "params": chosen, "factor": factor, "weight_decay": rest_decay}
            for factor, chosen in special.items()
        ),
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW, in its fused form where the device has one (CPU and CUDA do)."""
    groups = parameter_groups(model, settings)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    return torch.optim.SGD(
        groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=True
    )


def peak_lr(settings: TrainingConfig) -> float:
    """The learning rate for the real batch: linear scaling from the batch that `lr` is meant for."""
    reference = settings.optimizer.reference_batch or settings.batch_size
    return settings.optimizer.lr * settings.batch_size / reference


def lr_factor(settings: ScheduleConfig, epoch: float, epochs: int) -> float:
    """The share of the peak learning rate at a point in training; `epoch` may be a fraction.

    - step: `gamma` for each milestone that has passed;
    - cosine: half a cosine from 1 to `final_factor`, after the warm-up;
    - onecycle: half a cosine up from `final_factor` or 1/25 to 1 over the share `rise`, half a cosine down;
    - constant: 1.
    Warm-up rises linearly from `warmup_factor` over `warmup_epochs`, multiplied in for all but onecycle.
    With `per: epoch` an epoch keeps the rate of its first step.
    """
    if settings.per == "epoch":
        epoch = math.floor(epoch)
    if settings.name == "onecycle":
        return _onecycle(settings, epoch / epochs)
    if epoch < settings.warmup_epochs:
        part = epoch / settings.warmup_epochs
        return settings.warmup_factor + (1 - settings.warmup_factor) * part
    if settings.name == "step":
        return settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
    if settings.name == "cosine":
        part = (epoch - settings.warmup_epochs) / max(epochs - settings.warmup_epochs, 1e-9)
        return _cosine(1.0, settings.final_factor, part)
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def _onecycle(settings: ScheduleConfig, part: float) -> float:
    start = max(settings.final_factor, 1 / 25)  # as in Smith's super-convergence
    if part < settings.rise:
        return _cosine(start, 1.0, part / settings.rise)
    return _cosine(1.0, settings.final_factor, (part - settings.rise) / (1 - settings.rise))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(max(part, 0.0), 1.0))) / 2


class WeightAverage:
    """An exponential moving average of weights and statistics, for validation and the final file.

    The weights of the start count nothing: the share of step i after step k, `decay^(k - i) (1 - decay)`, is
    divided by the sum of all shares, `1 - decay^k` (the correction of Adam's moments).
    """

    def __init__(self, model: nn.Module, decay: float, fixed: Collection[str] = ()):
        self.decay, self.fixed = decay, fixed
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.steps: int | None = 0
        """Steps so far; None goes on without the correction, as trainings before it began."""

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards a network's weights; counters and what is `fixed` are copied."""
        share = 1 - self.decay
        if self.steps is not None:
            self.steps += 1
            share /= 1 - self.decay**self.steps
        for name, value in model.state_dict().items():
            if value.is_floating_point() and name not in self.fixed:
                self.state[name].lerp_(value, share)
            else:
                self.state[name].copy_(value)

    def take(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from these weights and statistics."""
        for name, value in state.items():
            self.state[name].copy_(value)

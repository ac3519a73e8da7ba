"""The optimiser of a trial. The learning rate of a step is set from the step number, so it needs no state."""

from __future__ import annotations

from torch import nn, optim

from overread.records import OptimiserConfig
from overread.training.schedules import learning_rate_factor

MOMENTUM = 0.9


def build_optimiser(model: nn.Module, config: OptimiserConfig) -> optim.Optimizer:
    """Return the optimiser over all trainable parameters; `fused` does one pass over memory, on CPU and CUDA."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    if config.name == "sgd":
        return optim.SGD(parameters, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=decay, fused=True)
    if config.name == "adam":
        return optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
    return optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)


def set_learning_rate(optimiser: optim.Optimizer, config: OptimiserConfig, step: int, steps: int) -> float:
    """Set the rate of `step` (0-based) of `steps` and return it."""
    rate = config.learning_rate * learning_rate_factor(config.schedule, step, steps)
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate

"""DINO (Caron et al. 2021, arXiv:2104.14294): a ViT learns from images alone, by agreeing with its own average.

Student and teacher are one network: a ViT, and a head on its CLS token (three GELU layers, L2 norm, K outputs by rows
of length 1). The student sees all crops of an image (`multi_crop`), the teacher the two global ones; the loss is the
cross-entropy of the student's softmax (temperature 0.1) with the teacher's (0.04 to 0.07), over all pairs of different
crops (DAI-Net, Eqs. 1-3). The teacher is the student's moving average. Against collapse its outputs are centred by a
moving mean (against one output for all images) and sharpened by the lower temperature (against a uniform one).
Schedules are functions of the step, so they need no state. What DAI-Net adds: 256 x 256, 64 images a step, 800 epochs
and a learning rate of 1e-4. Differs from DINO's code: no stochastic depth; the learning rate is that given, not scaled
by the batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from overread.architectures.contract import Losses
from overread.architectures.vit import ViT, ViTOptions, as_rgb
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.training.augment import Share
from overread.training.collective import sum_over_ranks, sum_with_gradient
from overread.training.multi_crop import GLOBAL_CROPS, MultiCrop

LAST_RATE = 1e-6
"""Learning rate at the end."""
LEAST = {"outputs": 2, "bottleneck": 2, "hidden": 1, "batch_size": 1, "epochs": 1} | dict.fromkeys(
    ("warm_up_epochs", "temperature_epochs", "frozen_epochs"), 0
)
"""Smallest value of the options that count something."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(JsonRecord):
    """Everything that determines a pretraining, but the data; the defaults are DAI-Net's."""

    vit: ViTOptions = field(default_factory=ViTOptions)
    crops: MultiCrop = field(default_factory=MultiCrop)
    start: str | None = None
    """Weights file (such as DINO's own) that the ViT starts from; None: random weights."""
    outputs: int = 65536
    """K; a few thousand do for small data."""
    hidden: int = 2048
    """Channels of the head's layers."""
    bottleneck: int = 256
    """Channels of the head before its last layer."""
    head_batch_norm: bool = False
    """Batch normalisation in the head, DINO's `use_bn_in_head`: small batches of like images collapse without it."""
    batch_size: int = 64
    """Images per step over all workers."""
    epochs: int = 800
    """Passes over the images, with a report after each."""
    learning_rate: float = 1e-4
    warm_up_epochs: int = 10
    """Epochs in which the learning rate rises from 0; then it falls as a cosine to 1e-6."""
    weight_decay: float = 0.04
    last_weight_decay: float = 0.4
    """At the end; a cosine between."""
    student_temperature: float = 0.1
    first_teacher_temperature: float = 0.04
    teacher_temperature: float = 0.07
    temperature_epochs: int = 30
    """Epochs in which the teacher's temperature rises."""
    momentum: float = 0.996
    """Of the teacher's average; rises to 1 as a cosine."""
    centre_momentum: float = 0.9
    gradient_clip: float = 3.0
    """Largest gradient norm of each parameter by itself, as in DINO's code."""
    frozen_epochs: int = 1
    """Epochs in which the head's last layer is not trained."""
    mixed_precision: bool = True
    """bf16 autocast where the processor computes in it."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, but got {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip", "student_temperature", "first_teacher_temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, but got {getattr(self, name)}")
        if self.teacher_temperature < self.first_teacher_temperature:
            raise UserError(f"teacher_temperature must not fall, but ends at {self.teacher_temperature}")
        for name in ("momentum", "centre_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be in 0..1, but got {getattr(self, name)}")
        for name in ("size", "local_size"):
            if getattr(self.crops, name) % self.vit.patch:
                raise UserError(
                    f"{name} of the crops must be a multiple of the patch, {self.vit.patch} pixels, but got "
                    f"{getattr(self.crops, name)}"
                )


@dataclass(frozen=True)
class Pace:
    """What the schedules set for one step."""

    learning_rate: float
    weight_decay: float
    momentum: float
    teacher_temperature: float
    frozen: bool
    """Whether the head's last layer rests."""

    @classmethod
    def at(cls, config: PretrainConfig, step: int, steps_per_epoch: int) -> Pace:
        """Return the pace of `step`, counted from 0."""
        share = step / (config.epochs * steps_per_epoch)
        epoch, warm = step / steps_per_epoch, config.warm_up_epochs
        if epoch < warm:
            rate = config.learning_rate * (step + 1) / (warm * steps_per_epoch)
        else:
            rate = _cosine(config.learning_rate, LAST_RATE, (epoch - warm) / (config.epochs - warm))
        first, last = config.first_teacher_temperature, config.teacher_temperature
        risen = min(int(epoch) / config.temperature_epochs, 1.0) if config.temperature_epochs else 1.0
        return cls(
            learning_rate=rate,
            weight_decay=_cosine(config.weight_decay, config.last_weight_decay, share),
            momentum=_cosine(config.momentum, 1.0, share),
            teacher_temperature=first + (last - first) * risen,
            frozen=epoch < config.frozen_epochs,
        )


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))


class CropNorm(nn.Module):
    """Batch normalisation (B, C) over the crops of all workers, always by their own statistics: heads only train."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x with mean `bias` and standard deviation `weight` of each channel."""
        count = sum_with_gradient(x.new_tensor(float(len(x))))
        apart = x - sum_with_gradient(x.sum(0)) / count
        variance = sum_with_gradient(apart.square().sum(0)) / count
        return apart * (variance + 1e-5).rsqrt() * self.weight + self.bias


class DinoHead(nn.Module):
    """CLS tokens (B, width) to K outputs: the cosines of a bottleneck with K learned directions."""

    def __init__(self, width: int, config: PretrainConfig) -> None:
        super().__init__()
        hidden, bottleneck = config.hidden, config.bottleneck
        norm = CropNorm if config.head_batch_norm else nn.Identity
        self.mlp = nn.Sequential(
            *(nn.Linear(width, hidden), norm(hidden), nn.GELU()),
            *(nn.Linear(hidden, hidden), norm(hidden), nn.GELU()),
            nn.Linear(hidden, bottleneck),
        )
        self.directions = nn.Parameter(torch.empty(config.outputs, bottleneck))
        nn.init.trunc_normal_(self.directions, std=0.02)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width) to (B, K), in -1..1."""
        with torch.autocast(x.device.type, enabled=False):  # rounded cosines would move the softmax at 1/25 of them
            x = F.normalize(self.mlp(x.float()), dim=1)
            return F.linear(x, F.normalize(self.directions, dim=1))


class DinoNetwork(nn.Module):
    """ViT and head. Its loss goes through `forward`, because distributed data parallel reduces gradients only there."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.temperature = config.student_temperature
        self.vit = ViT(config.vit)
        self.head = DinoHead(config.vit.width, config)

    def outputs(self, views: Sequence[Tensor]) -> Tensor:
        """Map views (B, C, S, S) of any sizes to (views, B, K); neighbours of one size go through the ViT together."""
        groups = [list(group) for _, group in groupby(views, key=lambda view: view.shape)]
        tokens = torch.cat([self.vit(as_rgb(torch.cat(group))) for group in groups])
        return self.head(tokens).unflatten(0, (len(views), -1))

    def forward(self, views: Sequence[Tensor], targets: Tensor) -> Losses:
        """Return "loss" and the share of images where student and teacher prefer one output, `agreement`.

        `targets` (2, B, K) are the teacher's probabilities for the first two views.
        """
        outputs = self.outputs(views)
        logs = F.log_softmax(outputs / self.temperature, -1)
        pairs = [(t, s) for t in range(GLOBAL_CROPS) for s in range(len(views)) if s != t]
        loss = torch.stack([-(targets[t] * logs[s]).sum(-1).mean() for t, s in pairs]).mean()
        crossed = outputs[:GLOBAL_CROPS].flip(0).argmax(-1)
        return {"loss": loss, "agreement": (crossed == targets.argmax(-1)).float().mean().detach()}


class Dino:
    """Student, teacher, centre and optimiser of one run on one rank."""

    def __init__(self, config: PretrainConfig, device: torch.device, wrap: Callable[[nn.Module], nn.Module]) -> None:
        self.config, self.device = config, device
        self.student = DinoNetwork(config).to(device)
        self.teacher = DinoNetwork(config).to(device).requires_grad_(False)
        self.restart_teacher()
        self.centre = torch.zeros(config.outputs, device=device)
        self.optimiser = optim.AdamW(_groups(self.student), lr=config.learning_rate)
        self.model = wrap(self.student)
        """The student, or its distributed wrapper."""

    def restart_teacher(self) -> None:
        """Make the teacher what the student is."""
        self.teacher.load_state_dict(self.student.state_dict())

    def step(
        self, views: Sequence[Tensor], pace: Pace, share: Share, autocast: AbstractContextManager[object]
    ) -> dict[str, Tensor]:
        """Do one step on this rank's views; return its figures, as means over samples of this rank, detached.

        `entropy` is that of the teacher's outputs, `spread` that of their mean over all ranks, in nats.
        """
        with autocast:
            targets, mean = self._targets(views[:GLOBAL_CROPS], pace, share)
            losses = self.model(views, targets)
        self.optimiser.zero_grad(set_to_none=True)
        # DDP averages over ranks; shares of the batch may differ by one sample
        (losses["loss"] * (share.local * share.world_size / share.size)).backward()
        for parameter in self.student.parameters():
            nn.utils.clip_grad_norm_(parameter, self.config.gradient_clip)
        if pace.frozen:
            self.student.head.directions.grad = None
        for group, decay in zip(self.optimiser.param_groups, (pace.weight_decay, 0.0), strict=True):
            group["lr"], group["weight_decay"] = pace.learning_rate, decay
        self.optimiser.step()
        self._follow(pace.momentum)
        return {name: value.detach() for name, value in losses.items()} | entropies(targets, mean)

    @torch.no_grad()
    def _targets(self, views: Sequence[Tensor], pace: Pace, share: Share) -> tuple[Tensor, Tensor]:
        """Return the teacher's probabilities (2, B, K) and their mean (K) over all ranks; the centre follows."""
        outputs = self.teacher.outputs(views)
        targets = ((outputs - self.centre) / pace.teacher_temperature).softmax(-1)
        sums = sum_over_ranks(torch.stack([outputs, targets]).sum((1, 2)), self.device)
        output, mean = (sums / (GLOBAL_CROPS * share.size)).to(self.centre)
        self.centre.lerp_(output, 1 - self.config.centre_momentum)
        return targets, mean

    @torch.no_grad()
    def _follow(self, momentum: float) -> None:
        for mine, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.lerp_(theirs, 1 - momentum)


def _groups(student: DinoNetwork) -> list[dict[str, list[nn.Parameter]]]:
    """Return the parameters with weight decay, and those without: biases and norms."""
    parameters = list(student.parameters())
    return [{"params": [p for p in parameters if (p.ndim > 1) == decayed]} for decayed in (True, False)]


def entropies(targets: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """Return the mean `entropy` of probabilities (2, B, K), and that of the `mean` (K) of all: `spread`, in nats."""

    def entropy(probabilities: Tensor) -> Tensor:
        return torch.special.entr(probabilities).sum(-1)

    return {"entropy": entropy(targets).mean(), "spread": entropy(mean)}


NEAR = 0.01
"""Share of log K that counts as none, and as all from the other side."""


def collapse(entropy: float, spread: float, outputs: int) -> str | None:
    """Say in words that the teacher tells no images apart, or return None.

    Outputs that are sharp for each image are wanted; it is their mean over images that must not be sharp too. Spread
    less entropy is the information that an output has about its image (nats, at least 0): none is left of it where the
    same distribution, however sharp, is given to all.
    """
    full = math.log(outputs)
    if spread < NEAR * full:
        return (
            f"the teacher has collapsed to one output for all images (entropy {entropy:.3f} of {full:.3f} nats): "
            "lower centre_momentum, raise the teacher's temperature or lower the learning rate"
        )
    if entropy > (1 - NEAR) * full:
        return (
            f"the teacher has collapsed to the same even output for all images (entropy {entropy:.3f} of {full:.3f} "
            "nats): set head_batch_norm, lower the teacher's temperature, or train longer"
        )
    if spread - entropy < NEAR * full:
        return (
            "the teacher has collapsed to nearly the same output for all images (they tell apart "
            f"{max(spread - entropy, 0.0):.3f} of {full:.3f} nats): set head_batch_norm, train longer, lower the "
            "teacher's temperature or the learning rate"
        )
    return None

"""A softmax head over any Network, and what heads of every kind share: losses, start, probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from overread.architectures.blocks import convolution
from overread.architectures.contract import Losses, Network, Segmenter
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.losses import cross_entropy, dice_loss, focal_loss, lovasz_hinge
from overread.records import Batch, Needs, Readings, Variant

PRIOR = 0.05
"""Share of foreground that an untrained network predicts, over all foreground classes."""
SOFTMAX_LOSSES = {"ce": 1.0, "dice": 0.0, "dice_all": 0.0, "dice_squared": 0.0}
"""Terms of softmax networks; cross-entropy alone is what U-Net and U-Netmer publish."""
TINY = 1e-5
"""Smoothing of Dice in DAI-Net's Eq. 4 and in the programs of TransUNet and MT-UNet."""
SIGMOID_LOSSES = {"focal": 0.5, "dice": 1.0, "lovasz": 0.5}
"""Terms of sigmoid networks, with the weights of UNet#."""


def softmax_losses(logits: Tensor, targets: Tensor, weights: Mapping[str, float]) -> Losses:
    """Return the weighted loss and its terms for logits and soft targets (B, K, *S).

    `dice` is over the foreground, smoothed by 1; `dice_all` and `dice_squared` are over all classes and smoothed by
    `TINY`, the latter with squares in its denominator.
    """

    def dice_of_all(squared: bool) -> Tensor:
        return dice_loss(logits.float().softmax(1), targets, TINY, squared=squared)

    return _weighted(
        {
            "ce": lambda: cross_entropy(logits, targets),
            "dice": lambda: dice_loss(logits.float().softmax(1)[:, 1:], targets[:, 1:]),
            "dice_all": lambda: dice_of_all(squared=False),
            "dice_squared": lambda: dice_of_all(squared=True),
        },
        weights,
    )


def sigmoid_losses(logits: Tensor, targets: Tensor, weights: Mapping[str, float]) -> Losses:
    """Return the weighted loss and its terms for logits and soft targets (B, K - 1, *S), averaged over the classes."""
    return _weighted(
        {
            "focal": lambda: focal_loss(logits, targets),
            "dice": lambda: dice_loss(logits.float().sigmoid(), targets),
            "lovasz": lambda: lovasz_hinge(logits, targets),
        },
        weights,
    )


def _weighted(terms: Mapping[str, Callable[[], Tensor]], weights: Mapping[str, float]) -> Losses:
    """Return the terms, means over samples detached for the log, and their weighted sum; weight 0 is not computed."""
    losses = {name: term().mean() for name, term in terms.items() if weights.get(name, 0.0) > 0}
    total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
    return {"loss": total} | {name: value.detach() for name, value in losses.items()}


def check_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the loss weights; none may be negative and one must be positive."""
    if min(weights.values()) < 0 or max(weights.values()) <= 0:
        raise UserError(f"loss weights must be >= 0 and one of them > 0, but got {dict(weights)}")
    return dict(weights)


def check_classes(classes: int) -> int:
    """Return the number of classes with background; there must be a foreground."""
    if classes < 2:
        raise UserError(f"classes counts the background and must be at least 2, but got {classes}")
    return classes


def start_from_prior(head: nn.Module, classes: int) -> nn.Module:
    """Set the bias of a head (a convolution to K or K - 1 maps) so that it starts with `PRIOR` foreground.

    Foreground is rare: from an even start a short training spends its first hundreds of steps on learning only that
    (RetinaNet, Lin et al. 2017, arXiv:1708.02002, section 4.1).
    """
    bias = head.bias
    assert isinstance(bias, Tensor)  # noqa: S101  (heads are convolutions with a bias)
    with torch.no_grad():
        if len(bias) == classes:  # softmax over all classes
            bias.fill_(math.log(PRIOR / (classes - 1)))
            bias[0] = math.log(1 - PRIOR)
        else:  # one sigmoid per foreground class
            share = PRIOR / (classes - 1)
            bias.fill_(math.log(share / (1 - share)))
    return head


def with_background(foreground: Tensor, absent: Tensor | None = None) -> Tensor:
    """Return class probabilities (B, K, *S) from independent ones p (B, K - 1, *S).

    Background = product of 1 - p; all are then divided by their sum, so that any members can be averaged. `absent` is
    1 - p where the caller has it exactly, as sigmoid(-z) is: 1 - sigmoid(z) is 0 in float32 from logits of 17 on, and
    has no gradient then.
    """
    background = (1 - foreground if absent is None else absent).prod(1, keepdim=True)
    scores = torch.cat([background, foreground], 1)
    return scores / scores.sum(1, keepdim=True)


def relation_classes(logits: Tensor) -> Tensor:
    """Return class probabilities (B, K, *S) from the logits (B, K - 1, *S) of maps that may overlap between classes.

    Such are unions, intersections and the relations of two masks. Their papers mark a class where p > 1/2, so the
    background is 1 - largest p: the likeliest class exactly where no p is above 1/2, as it would not always be by
    `with_background`, whose product of 1 - p is only 0.34 where two classes have 0.42. All are then divided by their
    sum. Lost are overlaps: a voxel has one class, so of p = (0.9, 0.8) only the first is read. Of one class it is
    `with_background`.
    """
    background = (-logits).sigmoid().amin(1, keepdim=True)  # of the largest p, 1 - p
    scores = torch.cat([background, logits.sigmoid()], 1)
    return scores / scores.sum(1, keepdim=True)


class SoftmaxSegmenter(Segmenter):
    """Any Network with a head (1x1, or of `kernel`) over all classes: softmax, cross-entropy and Dice."""

    default_losses = SOFTMAX_LOSSES

    def __init__(
        self, network: Network, *, classes: int, kernel: int = 1, losses: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = check_classes(classes)
        head = convolution(network.spatial_dims, network.feature_channels, classes, kernel)
        self.head = start_from_prior(head, classes)
        self.needs = Needs(size_multiple=network.size_multiple)
        self.loss_weights = check_weights(self._loss_weights(losses))

    def logits(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Map (B, C, *S) to the logits of the head (B, K, *S)."""
        return self.head(self.network.features(images, variant).last)

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return `ce`, `dice` (where weighted) and "loss"."""
        return softmax_losses(self.logits(batch.images), batch.soft_targets(self.classes), self.loss_weights)

    def probabilities(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Return (B, K, *S) float32 class probabilities; gradients flow unless the caller switches them off."""
        return self.logits(images, variant).float().softmax(1)

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Read a batch with one forward pass; there are no alternatives."""
        return Readings(probabilities=self.probabilities(batch.images, variant))


class PlainSegmenter(SoftmaxSegmenter):
    """A softmax head on one class of Network: all that most architectures need. Subclasses name the class."""

    network_class: ClassVar[Callable[..., Network]]
    kernel: ClassVar[int] = 1
    """Of the head."""

    def __init__(
        self,
        options: JsonRecord,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        network = type(self).network_class(options, in_channels=in_channels, spatial_dims=spatial_dims)
        super().__init__(network, classes=classes, kernel=self.kernel, losses=losses)

"""Monte-Carlo dropout on the last layer, the baseline of Relation U-Net (Gal, Ghahramani 2016, arXiv:1506.02142).

Any Network, dropout on its last map, a 1x1 softmax head. Dropout stays on when an image is read: s_1..s_n are n passes,
`main` is their mean probability, and the score `mc_dropout_c` is Dice(union, intersection) of their masks. Dropout is
of single values, each channel of each voxel on its own. The rate, which the paper does not give, is 1/2.
As nothing before the last map is random, the backbone runs once and the head n times: each image is read with the
distribution of n full passes. Its masks follow from the seed that the `generator` gives (0 without one) and from the
image, so that it is read alone as in any batch. The last map of every image of the batch is kept, of the passes one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from overread.architectures.backbone import BackboneOptions
from overread.architectures.contract import Published, architecture
from overread.architectures.heads import SoftmaxSegmenter
from overread.errors import UserError
from overread.records import Batch, Readings, Variant


@dataclass(frozen=True, kw_only=True)
class MCDropoutOptions(BackboneOptions):
    """Options of the baseline; the defaults are the published U-Net and number of passes."""

    rate: float = 0.5
    """Probability that a value of the last map is dropped."""
    passes: int = 200
    """n; nothing that is trained depends on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.rate < 1:
            raise UserError(f"rate must be in (0, 1), but got {self.rate}")
        if self.passes < 2:
            raise UserError(f"passes must be at least 2, but got {self.passes}")


def image_seeds(images: Tensor, generator: torch.Generator | None) -> list[int]:
    """Return one seed per image of (B, C, *S), from the bits of the image and a draw of the generator."""
    drawn = 0
    if generator is not None:
        drawn = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    content = images.detach().float().view(torch.int32).flatten(1).sum(1, dtype=torch.int64)
    return [(drawn ^ own) & (2**63 - 1) for own in content.tolist()]


def draw_kept(shape: tuple[int, ...], rate: float, generator: torch.Generator) -> Tensor:
    """Return which values dropout keeps, bool; the rate is rounded to a multiple of 2^-16.

    Every random word of 64 bits decides on four values: `bernoulli_` would cost ten times the rest of a pass.
    """
    count = prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    values = words.random_(-(2**63), None, generator=generator).view(torch.int16)[:count]
    return (values >= round(rate * 2**16) - 2**15).view(shape)


@architecture(
    "mc_dropout",
    paper="He et al. 2025, Relation U-Net (baseline); Gal, Ghahramani 2016, arXiv:1506.02142",
    options=MCDropoutOptions,
    published=Published(in_channels=1, classes=2, size=(256, 256)),
    spatial_dims=(2, 3),
)
class MCDropoutSegmenter(SoftmaxSegmenter):
    """Any Network with dropout before a softmax head. Published loss: cross-entropy."""

    def __init__(
        self,
        options: MCDropoutOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        network = options.network(in_channels=in_channels, spatial_dims=spatial_dims)
        super().__init__(network, classes=classes, losses=losses)
        self.rate, self.passes = options.rate, options.passes
        self.dropout = nn.Dropout(options.rate)

    def logits(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Map (B, C, *S) to (B, K, *S) by one full pass, which is random in training mode."""
        return self.head(self.dropout(self.network.features(images, variant).last))

    def relation_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Return C of all passes."""
        return {"mc_dropout_c": tuple(self._names())}

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Read the mean of all passes, in evaluation mode too; the alternatives are `pass_1` .. `pass_<n>`.

        Generators in the same state give the same passes.
        """
        seeds = image_seeds(batch.images, generator)
        # contiguous: a 1x1 convolution with few outputs is faster there, and masks are drawn in that order
        last = self.network.features(batch.images, variant).last.contiguous()

        def passes() -> Iterator[tuple[str, Tensor]]:
            generators = [torch.Generator(last.device).manual_seed(seed) for seed in seeds]
            for name in self._names():
                kept = torch.stack([draw_kept(tuple(last.shape[1:]), self.rate, own) for own in generators])
                yield name, self.head(last * kept / (1 - self.rate)).float().softmax(1)

        def mean() -> Tensor:
            total = torch.zeros((), device=last.device)
            for _, read in passes():
                total = total + read
            return total / self.passes

        return Readings(probabilities=mean, alternatives=passes)

    def _names(self) -> Iterator[str]:
        return (f"pass_{index + 1}" for index in range(self.passes))

"""U-Netmer (He, Bao, Grant, Ou 2023): a U-Net on local patches, with a Transformer across all patches of the image.

y = D(T(E(P_s(x)))) with the same weights for every scale s: P_s cuts the image into s x s patches, E and D are the
halves of a U-Net, an Attention U-Net or a U-Net++ (D has its nested nodes) that see one patch each, T attends over the
tokens of all patches (the deepest maps, h w / 4^n of them whatever s is). All scales of the set S are trained together,
the loss being the mean of theirs (one part of the step per scale); B_s is the reading at scale s, and the Dice of two
of them is the paper's confidence C_ij.
Differs from the paper's print: the position embedding is a grid in the raster order of the image, so that it means the
same place at every scale; blocks are those of ViT (the paper's equations lack LayerNorm); hw/2^n tokens is a misprint.
In 3-D, where the paper has slices only, the same with s x s x s patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from overread.architectures.contract import (
    ARCHITECTURES,
    EncoderDecoder,
    Features,
    Losses,
    Network,
    Published,
    architecture,
    build_encoder_decoder,
)
from overread.architectures.heads import SoftmaxSegmenter, softmax_losses
from overread.architectures.transformer import Encoder, PositionGrid
from overread.errors import UserError, unknown_name
from overread.jsonio import JsonRecord
from overread.records import MAIN, Batch, Readings, Variant

SCALES = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class UNetmerOptions(JsonRecord):
    """Options of U-Netmer; the defaults are the published backbone and the scales of C12, C14, C24."""

    scales: tuple[int, ...] = (1, 2, 4)
    """S: the image is cut into s x s patches (3-D: s x s x s) for each s, ascending."""
    width: int = 64
    """Channels at full resolution; tokens have `width` * 2^`pools`."""
    pools: int = 4
    """n; spatial sizes must be multiples of 2^n max(S)."""
    backbone: str = "unet"
    """The architecture whose halves are E and D; published: `unet`, `attention_unet` (Attention U-Netmer) and
    `unet_plus_plus` (U-Netmer++). Any of `backbones()` will do."""
    use_transformer: bool = True
    """Without it patches are wholly independent (Fig. 5 of the paper)."""
    transformer_depth: int = 6
    heads: int = 8
    mlp_ratio: int = 4
    position_grid: int = 16
    """Side of the learned grid: h / 2^n for the published 256 x 256 images; interpolated for others."""

    def __post_init__(self) -> None:
        if not self.scales or sorted(set(self.scales)) != list(self.scales) or not set(self.scales) <= set(SCALES):
            raise UserError(f"scales must be ascending and out of {list(SCALES)}, but got {list(self.scales)}")
        for name in ("width", "pools", "transformer_depth", "heads", "mlp_ratio", "position_grid"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, but got {getattr(self, name)}")
        if self.use_transformer and (self.width << self.pools) % self.heads:
            raise UserError(
                f"width * 2^pools must be a multiple of heads, but got {self.width << self.pools} and {self.heads}"
            )


def backbones() -> list[str]:
    """Return the architectures that have two halves and the options `width` and `depth` (levels)."""
    found = []
    for name in ARCHITECTURES:
        network, options = ARCHITECTURES[name].network, ARCHITECTURES[name].options().to_json()
        if isinstance(network, type) and issubclass(network, EncoderDecoder) and {"width", "depth"} <= options.keys():
            found.append(name)
    return found


def to_patches(x: Tensor, scale: int) -> Tensor:
    """Cut (B, C, *S) into (B * scale^axes, C, *S / scale): row-major patches, channels-last in memory."""
    if scale == 1:
        return x
    batch, channels, *sizes = x.shape
    axes = range(1, 2 * len(sizes), 2)
    small = [size // scale for size in sizes]
    cut = x.movedim(1, -1).reshape(batch, *(n for size in small for n in (scale, size)), channels)
    cut = cut.permute(0, *axes, *(axis + 1 for axis in axes), -1)  # (B, s, h, s, w, C) to (B, s, s, h, w, C)
    return cut.reshape(-1, *small, channels).movedim(-1, 1)


def from_patches(x: Tensor, scale: int) -> Tensor:
    """Stitch what `to_patches` cut: (B * scale^axes, C, *S) to (B, C, *S * scale)."""
    if scale == 1:
        return x
    channels, *sizes = x.shape[1:]
    dims = len(sizes)
    grid = x.movedim(1, -1).reshape(-1, *[scale] * dims, *sizes, channels)
    grid = grid.permute(0, *(axis for i in range(1, dims + 1) for axis in (i, i + dims)), -1)
    return grid.reshape(-1, *(scale * size for size in sizes), channels).movedim(-1, 1)


class UNetmer(Network):
    """The wiring of U-Netmer. Inner layers: `backbone` (E and D), `position` and `transformer` (T)."""

    title = "U-Netmer"

    def __init__(self, options: UNetmerOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
        if options.backbone not in backbones():
            raise unknown_name("backbone", options.backbone, backbones())
        backbone = build_encoder_decoder(
            options.backbone,
            {"width": options.width, "depth": options.pools + 1},
            in_channels=in_channels,
            spatial_dims=spatial_dims,
        )
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.backbone = backbone
        self.feature_channels = backbone.feature_channels
        self.scales = options.scales
        self.size_multiple = backbone.size_multiple * max(options.scales)
        self.use_transformer = options.use_transformer
        if options.use_transformer:
            tokens = backbone.bottom_channels
            self.position = PositionGrid(tokens, options.position_grid, spatial_dims)
            self.transformer = Encoder(tokens, options.transformer_depth, options.heads, options.mlp_ratio)

    @property
    def main_scale(self) -> int:
        """The scale of the reported segmentation: the smallest of S, which is s = 1 wherever it is trained."""
        return min(self.scales)

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, *S) to (B, width, *S) at the variant's scale."""
        self.check(x)
        scale = variant.options["scale"] if variant else self.main_scale
        skips, bottom = self.backbone.encode(to_patches(x, scale))
        if self.use_transformer:
            bottom = self._across_patches(bottom, scale)
        return Features(from_patches(self.backbone.decode(skips, bottom), scale))

    def _across_patches(self, bottom: Tensor, scale: int) -> Tensor:
        """Let all patches of an image attend to each other: (B * scale^axes, d, *s) to the same shape."""
        image = from_patches(bottom, scale)
        size = tuple(image.shape[2:])
        tokens = (image + self.position(size)).flatten(2).transpose(1, 2)
        mixed = self.transformer(tokens).transpose(1, 2).unflatten(2, size)
        return to_patches(mixed, scale).to(bottom.dtype)


@architecture(
    "unetmer",
    paper="He et al. 2023, U-Netmer: U-Net meets Transformer for medical image segmentation",
    options=UNetmerOptions,
    published=Published(in_channels=1, classes=2, size=(256, 256)),
    spatial_dims=(2, 3),
    axes=("scale",),
    also={
        "attention_unetmer": Published(
            in_channels=1, classes=2, size=(256, 256), options={"backbone": "attention_unet"}
        ),
        "unetmer_plus_plus": Published(
            in_channels=1, classes=2, size=(256, 256), options={"backbone": "unet_plus_plus"}
        ),
        "trans_unet": Published(in_channels=1, classes=2, size=(256, 256), options={"scales": [1]}),
    },
    network=UNetmer,
)
class UNetmerSegmenter(SoftmaxSegmenter):
    """U-Netmer with a softmax head. Published loss: cross-entropy, averaged over the scales."""

    network: UNetmer

    def __init__(
        self,
        options: UNetmerOptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        network = UNetmer(options, in_channels=in_channels, spatial_dims=spatial_dims)
        super().__init__(network, classes=classes, losses=losses)
        self.scales = options.scales

    def parts(self) -> int:
        """Return one part per scale: the memory of one scale trains them all."""
        return len(self.scales)

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return the terms at scale `part` of S, named `<term>_scale_<s>`, and "loss" as its share of the mean."""
        variant = _at_scale(self.scales[part])
        losses = softmax_losses(self.logits(batch.images, variant), batch.soft_targets(self.classes), self.loss_weights)
        share = losses.pop("loss") / len(self.scales)
        return {"loss": share} | {f"{name}_{variant.name}": value for name, value in losses.items()}

    def variants(self) -> tuple[Variant, ...]:
        """Return `main` (the smallest scale of S) and `scale_<s>` for every s; equal options are the same reading."""
        main = Variant(name=MAIN, options={"scale": self.network.main_scale})
        return (main, *(_at_scale(scale) for scale in self.scales))

    def relation_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Return `c_<i><j>` of B_i and B_j for every two scales of S: the paper's C_1j are there if 1 is in S."""
        return {f"c_{i}{j}": (_at_scale(i).name, _at_scale(j).name) for i, j in combinations(self.scales, 2)}

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Read at one scale; the alternatives are B_s for every s of S, each computed when it is asked for."""
        chosen = variant or self.variants()[0]
        main = self.probabilities(batch.images, chosen)

        def alternatives() -> Iterator[tuple[str, Tensor]]:
            for scale in self.scales:
                other = _at_scale(scale)
                known = scale == chosen.options["scale"]
                yield other.name, main if known else self.probabilities(batch.images, other)

        return Readings(probabilities=main, alternatives=alternatives)


def _at_scale(scale: int) -> Variant:
    return Variant(name=f"scale_{scale}", options={"scale": scale})

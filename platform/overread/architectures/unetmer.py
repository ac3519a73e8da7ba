"""U-Netmer (He, Bao, Grant, Ou 2023): a U-Net on local patches, with a Transformer across all patches of the image.

y = D(T(E(P_s(x)))) with the same weights for every scale s: P_s cuts the image into s x s patches, E and D are the
halves of a U-Net that see one patch each, T attends over the tokens of all patches (the deepest maps, h w / 4^n of them
whatever s is). All scales of the set S are trained together, the loss being the mean of theirs (one part of the step
per scale); B_s is the reading at scale s, and the Dice of two of them is the paper's confidence C_ij.
Differs from the paper's print: the position embedding is a grid in the raster order of the image, so that it means the
same place at every scale; blocks are those of ViT (the paper's equations lack LayerNorm); hw/2^n tokens is a misprint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from overread.architectures.blocks import check_input
from overread.architectures.contract import Features, Losses, Network, Published, architecture, build_encoder_decoder
from overread.architectures.heads import SoftmaxSegmenter, softmax_losses
from overread.architectures.transformer import Encoder, PositionGrid
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import MAIN, Batch, Readings, Variant

SCALES = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class UNetmerOptions(JsonRecord):
    """Options of U-Netmer; the defaults are the published backbone and the scales of C12, C14, C24."""

    scales: tuple[int, ...] = (1, 2, 4)
    """S: the image is cut into s x s patches for each s, ascending."""
    width: int = 64
    """Channels at full resolution; tokens have `width` * 2^`pools`."""
    pools: int = 4
    """n; spatial sizes must be multiples of 2^n max(S)."""
    backbone: str = "unet"
    """The architecture whose halves are E and D; it takes `width` and `depth` (levels)."""
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


def to_patches(x: Tensor, scale: int) -> Tensor:
    """Cut (B, C, H, W) into (B * scale^2, C, H / scale, W / scale): row-major patches, channels-last in memory."""
    if scale == 1:
        return x
    batch, channels, height, width = x.shape
    h, w = height // scale, width // scale
    cut = x.permute(0, 2, 3, 1).reshape(batch, scale, h, scale, w, channels).transpose(2, 3)
    return cut.reshape(batch * scale**2, h, w, channels).permute(0, 3, 1, 2)


def from_patches(x: Tensor, scale: int) -> Tensor:
    """Stitch what `to_patches` cut: (B * scale^2, C, h, w) to (B, C, scale * h, scale * w)."""
    if scale == 1:
        return x
    patches, channels, h, w = x.shape
    grid = x.permute(0, 2, 3, 1).reshape(patches // scale**2, scale, scale, h, w, channels).transpose(2, 3)
    return grid.reshape(-1, scale * h, scale * w, channels).permute(0, 3, 1, 2)


class UNetmer(Network):
    """The wiring of U-Netmer. Inner layers: `backbone` (E and D), `position` and `transformer` (T)."""

    def __init__(self, options: UNetmerOptions, *, in_channels: int, spatial_dims: int = 2) -> None:
        super().__init__()
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
            self.position = PositionGrid(tokens, options.position_grid)
            self.transformer = Encoder(tokens, options.transformer_depth, options.heads, options.mlp_ratio)

    @property
    def main_scale(self) -> int:
        """The scale of the reported segmentation: the smallest of S, which is s = 1 wherever it is trained."""
        return min(self.scales)

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, H, W) to (B, width, H, W) at the variant's scale."""
        check_input(x, name="U-Netmer", in_channels=self.in_channels, spatial_dims=2, size_multiple=self.size_multiple)
        scale = variant.options["scale"] if variant else self.main_scale
        skips, bottom = self.backbone.encode(to_patches(x, scale))
        if self.use_transformer:
            bottom = self._across_patches(bottom, scale)
        return Features(from_patches(self.backbone.decode(skips, bottom), scale))

    def _across_patches(self, bottom: Tensor, scale: int) -> Tensor:
        """Let all patches of an image attend to each other: (B * scale^2, d, h, w) to the same shape."""
        image = from_patches(bottom, scale)
        size = (image.shape[2], image.shape[3])
        tokens = (image + self.position(size)).flatten(2).transpose(1, 2)
        mixed = self.transformer(tokens).transpose(1, 2).unflatten(2, size)
        return to_patches(mixed, scale).to(bottom.dtype)


@architecture(
    "unetmer",
    paper="He et al. 2023, U-Netmer: U-Net meets Transformer for medical image segmentation",
    options=UNetmerOptions,
    published=Published(in_channels=1, classes=2, size=(256, 256)),
    axes=("scale",),
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

    def relation_sets(self) -> Mapping[str, tuple[str, str]]:
        """Return `c_<i><j>` of B_i and B_j for every two scales of S (the paper's C_ij)."""
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

"""DARR (Fu et al. 2020, MICCAI, arXiv:2005.09120): a V-Net that also learns where parts of a body belong.

The segmentation network is V-Net (Milletari et al. 2016, arXiv:1606.04797), in 3-D and 2-D: the encoder `v_net` of
`encoders`; up by transposed convolutions to the skip's channels (BN, PReLU), concatenation with the skip, and 2, 2, 1
and 1 Conv5-BN-PReLU around a residual; last a Conv5-BN-PReLU and a 1x1 head.
Relational reasoning is a jigsaw puzzle, solved beside the segmentation: the image is cut into `pieces` per axis, the
pieces are shuffled, each goes through the encoder, and a perceptron on the mean of a piece's deepest map, beside the
mean of all pieces', says where the piece belongs (cross-entropy over the places; loss term `jigsaw`). The organs'
relations are much the same in all images, so the puzzle can also be learned on an image without labels: before an image
is read, a copy of the network takes `adaptation_steps` steps of gradient descent on its puzzle (test-time training).
`pieces` 1 has no puzzle and is V-Net alone.

Parameters for 1 channel and 2 classes in 3-D: 45,857,498, of V-Net 45,724,114. The tables say 45.6M for V-Net, whose
last Conv5 has as many channels as there are classes; here it has 2 `width`, and the head is that of all networks.
Little is published about the form that is in DAI-Net's tables. Inferred: the perceptron and its size, the weight of
`jigsaw`, the number and rate of the steps at test time, that these are taken per image or patch as it is read, with the
norms' statistics of the training. Not built: the super-resolution network that brings scans of other scanners to one
spacing; spacing is a matter of the preparation here.
In evaluation mode the shuffle is a fixed one, so that a loss or a reading is the same each time.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, cat, nn

from overread.architectures.blocks import check_input, convolution, initialise_he, normalisation, transposed_up
from overread.architectures.contract import EncoderDecoder, Losses, Published, architecture
from overread.architectures.encoders import MOST_LEVELS, build_encoder
from overread.architectures.heads import SOFTMAX_LOSSES, SoftmaxSegmenter, check_weights, softmax_losses
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import Batch, Needs, Variant

JIGSAW = "jigsaw"
"""Loss term of the puzzle."""
DECODER_UNITS = (1, 1, 2, 2)
"""Conv5 units of the decoder's levels, finest first."""


@dataclass(frozen=True, kw_only=True)
class DARROptions(JsonRecord):
    """Options of DARR; the defaults are the published V-Net with a puzzle of two pieces per axis."""

    width: int = 16
    """Channels at full resolution; doubled per level."""
    depth: int = 5
    """Resolution levels; a piece's sides must be multiples of 2^(depth - 1)."""
    pieces: int = 2
    """Per axis; 1: no puzzle."""
    adaptation_steps: int = 1
    """Steps of gradient descent on an image's own puzzle before it is read."""
    adaptation_rate: float = 1e-3
    """Learning rate of these steps."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f"width must be at least 1, but got {self.width}")
        if not 2 <= self.depth <= MOST_LEVELS:
            raise UserError(f"depth must be in 2..{MOST_LEVELS} levels, but got {self.depth}")
        if not 1 <= self.pieces <= 4:
            raise UserError(f"pieces must be in 1..4 per axis, but got {self.pieces}")
        if self.adaptation_steps < 0 or self.adaptation_rate <= 0:
            raise UserError(
                "adaptation_steps must be at least 0 and adaptation_rate > 0, but got "
                f"{self.adaptation_steps} and {self.adaptation_rate}"
            )


def _unit(spatial_dims: int, inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(spatial_dims, inputs, outputs, kernel=5),
        normalisation("batch", spatial_dims, outputs),
        nn.PReLU(outputs),
    )


class UpStage(nn.Module):
    """Upsampling to the skip's channels, concatenation with the skip, and units around a residual."""

    def __init__(self, spatial_dims: int, inputs: int, skip: int, units: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            transposed_up(spatial_dims, inputs, skip), normalisation("batch", spatial_dims, skip), nn.PReLU(skip)
        )
        self.units = nn.Sequential(*(_unit(spatial_dims, 2 * skip, 2 * skip) for _ in range(units)))
        self.activation = nn.PReLU(2 * skip)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, inputs, *S) and the skip (B, skip, *2S) to (B, 2 skip, *2S)."""
        x = cat([self.up(x), skip], 1)
        return self.activation(self.units(x) + x)


class VNet(EncoderDecoder):
    """The wiring of V-Net. Inner layers: `encoder`; `decoder` (finest first), `last`.

    >>> VNet(DARROptions(width=2, depth=3), in_channels=1, spatial_dims=3)(torch.zeros(2, 1, 4, 8, 8)).shape
    torch.Size([2, 4, 4, 8, 8])
    """

    title = "V-Net"

    def __init__(self, options: DARROptions, *, in_channels: int, spatial_dims: int = 3) -> None:
        super().__init__()
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.encoder = build_encoder(
            "v_net", in_channels=in_channels, width=options.width, levels=options.depth, spatial_dims=spatial_dims
        )
        *skips, self.bottom_channels = self.encoder.channels
        self.size_multiple = self.encoder.size_multiple
        self.feature_channels = 2 * options.width
        below = [*(2 * skip for skip in skips[1:]), self.bottom_channels]
        self.decoder = nn.ModuleList(
            UpStage(spatial_dims, i, skip, units)
            for i, skip, units in zip(below, skips, DECODER_UNITS, strict=False)  # fewer levels: fewer stages
        )
        self.last = _unit(spatial_dims, self.feature_channels, self.feature_channels)
        initialise_he(self)

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skips, finest first, and the deepest map (B, `bottom_channels`, *S / 2^(depth - 1))."""
        *skips, bottom = self.encoder(x)
        return skips, bottom

    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, *S) from the skips and the deepest map."""
        for stage, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            bottom = stage(bottom, skip)
        return self.last(bottom)


def cut(x: Tensor, pieces: int) -> Tensor:
    """Cut (B, C, *S) into (B, pieces^axes, C, *S / pieces), in raster order of their places."""
    x = x[:, None]
    for axis in range(3, x.ndim):
        x = torch.stack(x.chunk(pieces, axis), 2).flatten(1, 2)
    return x


class Jigsaw(nn.Module):
    """Says of shuffled pieces where each belongs."""

    def __init__(self, channels: int, places: int) -> None:
        super().__init__()
        self.places = places
        self.perceptron = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, places)
        )

    def order(self, samples: int, device: torch.device) -> Tensor:
        """Return which piece lies at each position, (samples, places): random in training, else the last first."""
        if self.training:
            return torch.rand(samples, self.places, device=device).argsort(1)
        return torch.arange(self.places, device=device).flip(0).expand(samples, -1)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map the pieces' vectors (B, places, channels) to logits (B, pieces, places)."""
        all_pieces = vectors.mean(1, keepdim=True).expand_as(vectors)
        return self.perceptron(cat([vectors, all_pieces], 2))


@architecture(
    "darr",
    paper="Fu et al. 2020, arXiv:2005.09120",
    options=DARROptions,
    published=Published(in_channels=1, classes=2, size=(64, 64, 64)),
    spatial_dims=(2, 3),
    network=VNet,
    also={"darr_v_net": Published(in_channels=1, classes=2, size=(64, 64, 64), options={"pieces": 1})},
)
class DARRSegmenter(SoftmaxSegmenter):
    """V-Net with a softmax head and a puzzle. Loss: cross-entropy + Dice + 0.1 puzzle (weights inferred)."""

    default_losses = SOFTMAX_LOSSES | {"dice": 1.0, JIGSAW: 0.1}

    network: VNet

    def __init__(
        self,
        options: DARROptions,
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 3,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        network = VNet(options, in_channels=in_channels, spatial_dims=spatial_dims)
        super().__init__(network, classes=classes, losses=losses)
        self.options = options
        self.needs = Needs(size_multiple=options.pieces * network.size_multiple)
        self.jigsaw_weight = self.loss_weights.pop(JIGSAW)
        check_weights(self.loss_weights)
        self.jigsaw: Jigsaw | None = None
        if options.pieces > 1 and self.jigsaw_weight:
            self.jigsaw = Jigsaw(network.bottom_channels, options.pieces**spatial_dims)

    def puzzle(self, images: Tensor) -> Tensor:
        """Return the cross-entropy of the puzzle of each image, (B,)."""
        assert self.jigsaw is not None  # noqa: S101  (asked for only where there is a puzzle)
        pieces = cut(images, self.options.pieces)
        order = self.jigsaw.order(len(images), images.device)
        shuffled = pieces[torch.arange(len(images), device=images.device)[:, None], order]
        bottom = self.network.encoder(shuffled.flatten(0, 1))[-1]
        vectors = torch.unflatten(bottom.flatten(2).mean(2), 0, order.shape)
        scores = self.jigsaw(vectors).float().transpose(1, 2)
        return F.cross_entropy(scores, order, reduction="none").mean(1)

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return `ce`, `dice`, `jigsaw` (where weighted) and "loss"."""
        self._check(batch.images)
        losses = softmax_losses(self._plain(batch.images), batch.soft_targets(self.classes), self.loss_weights)
        if self.jigsaw is None:
            return losses
        jigsaw = self.puzzle(batch.images).mean()
        return losses | {"loss": losses["loss"] + self.jigsaw_weight * jigsaw, JIGSAW: jigsaw.detach()}

    def _check(self, images: Tensor) -> None:
        """Raise `UserError` unless each piece has sizes that the network takes."""
        check_input(
            images,
            name="DARR",
            in_channels=self.network.in_channels,
            spatial_dims=self.network.spatial_dims,
            size_multiple=self.needs.size_multiple,
        )

    def _plain(self, images: Tensor) -> Tensor:
        """Return the logits without adaptation."""
        return super().logits(images)

    def logits(self, images: Tensor, variant: Variant | None = None) -> Tensor:
        """Map (B, C, *S) to logits (B, K, *S), each image by a network that was adapted to its own puzzle."""
        self._check(images)
        if self.jigsaw is None or not self.options.adaptation_steps:
            return self._plain(images)
        return cat([self.adapted(image)._plain(image) for image in torch.tensor_split(images, len(images))])

    def adapted(self, image: Tensor) -> DARRSegmenter:
        """Return a copy whose encoder took the steps on the puzzle of an image (1, C, *S). The original stays."""
        with torch.inference_mode(False), torch.enable_grad():
            image = image.detach().clone()  # what was made in inference mode takes no part in gradients
            other = copy.deepcopy(self).eval()
            encoder = list(other.network.encoder.parameters())
            for _ in range(self.options.adaptation_steps):
                found = torch.autograd.grad(other.puzzle(image).sum(), encoder)
                with torch.no_grad():
                    for parameter, gradient in zip(encoder, found, strict=True):
                        parameter.sub_(gradient, alpha=self.options.adaptation_rate)
        return other

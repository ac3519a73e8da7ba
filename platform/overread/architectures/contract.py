"""The Segmenter contract: what the training loop, the search and the ensemble know of a network.

A `Network` is wiring only: features in, feature maps out. A `Segmenter` is a network with heads, loss and readings.
Relation heads, uncertainty modules, MC dropout and attention-map inputs are Segmenters over any Network.
An architecture joins by one file with `@architecture(...)`, one search space and one import line in `__init__`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from overread.architectures.blocks import check_input
from overread.errors import UserError
from overread.jsonio import JsonRecord
from overread.records import MAIN, Batch, Needs, Readings, TrialConfig, Variant
from overread.registry import Registry

Losses = dict[str, Tensor]
"""Named scalar terms for the log, and "loss", already weighted, to call backward on."""


@dataclass(frozen=True)
class Features:
    """What a Network gives: the last map (B, F, *S) and, where supervised, named deep maps of any resolution."""

    last: Tensor
    deep: Mapping[str, Tensor] = field(default_factory=dict)


class Network(nn.Module, ABC):
    """Wiring of layers. Heads, losses and readings belong to the Segmenter around it."""

    title: ClassVar[str]
    """Its name in messages."""
    in_channels: int
    spatial_dims: int
    feature_channels: int
    """F, channels of the last map."""
    size_multiple: int
    """Spatial sizes must be multiples of this."""

    @abstractmethod
    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, *S) to the last feature map (B, F, *S) and the deep maps of a supervised variant."""

    def check(self, x: Tensor) -> None:
        """Raise `UserError` unless `x` has the channels, axes and sizes that the network takes."""
        check_input(
            x,
            name=self.title,
            in_channels=self.in_channels,
            spatial_dims=self.spatial_dims,
            size_multiple=self.size_multiple,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the last feature map, for hooks and exports that call modules plainly."""
        return self.features(x).last


class EncoderDecoder(Network):
    """A Network of two halves, so that another may work on the deepest map between them."""

    bottom_channels: int
    """Channels of the deepest map."""

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skips, finest first, and the deepest map (B, `bottom_channels`, *S / `size_multiple`)."""

    @abstractmethod
    def decode(self, skips: list[Tensor], bottom: Tensor) -> Tensor:
        """Return the last map (B, F, *S) from the skips and the deepest map."""

    def features(self, x: Tensor, variant: Variant | None = None) -> Features:
        """Map (B, C, *S) to the last map (B, F, *S) through both halves."""
        self.check(x)
        return Features(self.decode(*self.encode(x)))


@dataclass(frozen=True)
class Alone:
    """A smaller Segmenter that reads one variant of a larger one as its `main`, and the options it is built from."""

    options: Mapping[str, Any]
    segmenter: Segmenter


def _same(name: str) -> str:
    return name


@dataclass(frozen=True)
class Pretrained:
    """A file of weights that a part of a Segmenter starts from. Training reads it; members then carry the weights."""

    part: nn.Module
    path: str
    sha256: str
    """SHA-256 (hex) that the file must have."""
    rename: Callable[[str], str] = _same
    """Name of a weight of the part -> its name in the file."""
    ignore: tuple[str, ...] = ("head.", "fc.", "classifier.")
    """Beginnings of names in the file that belong to another task, or to what is not built here."""
    any_channels: bool = False
    """Whether convolutions of RGB images may be turned into those of another number of channels."""


class Segmenter(nn.Module, ABC):
    """A network with heads, loss and readings. Built from JSON options; single-device; knows nothing of distribution.

    Subclasses are constructed as `cls(options, in_channels=..., classes=..., spatial_dims=..., losses=...)`.
    """

    needs: Needs
    classes: int

    default_losses: ClassVar[dict[str, float]] = {}
    """Published weight of every loss term; `losses` given to the constructor may name only these."""

    def case_inputs(self, image: Tensor) -> dict[str, Tensor]:
        """Return every array of `needs.extras` (channels, D, H, W) of a whole case (C, D, H, W). Default: none.

        It is called once per case, before tiling and in evaluation mode, and its result is stored: it must not depend
        on weights that are trained.
        """
        return {}

    def pretrained(self) -> tuple[Pretrained, ...]:
        """Return the files that a training starts from, as the options name them. Default: none.

        Building reads no file, so that a member is rebuilt from its config where there is none. What `needs` says must
        follow from the options: a key of extras from the hash of the file, not from its weights.
        """
        return ()

    def parts(self) -> int:
        """Return the number of backward passes of one step. Default: one."""
        return 1

    @abstractmethod
    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return the losses of one part; the loop calls backward on "loss" once per part.

        Losses go through `forward` because distributed data parallel reduces gradients only there.
        The sum of "loss" over all parts is the loss of the step, a mean over the samples of the batch.
        """

    def variants(self) -> tuple[Variant, ...]:
        """Return the trained ways to read, `main` first. Default: `main` only."""
        return (Variant(name=MAIN),)

    def variant(self, name: str) -> Variant:
        """Return a variant by name; an unknown one raises `UserError`."""
        for variant in self.variants():
            if variant.name == name:
                return variant
        known = ", ".join(variant.name for variant in self.variants())
        raise UserError(f"unknown variant '{name}': this network was trained for {known}")

    def alone(self, variant: Variant) -> Alone | None:
        """Return the part of the network that reads `variant`, without what it does not need.

        Default: none, every variant needs all weights.
        """
        return None

    def relation_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Return by score name the readings whose union and intersection it compares by Dice. Default: none.

        Of two readings that is their own Dice. They are names of variants or of alternatives.

        Only a table: the scores are computed by `confidence`, on stitched cases.
        """
        return {}

    @abstractmethod
    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Read a batch; labels are ignored. Anchors and generator serve pair networks and MC dropout.

        Gradients flow (for maps such as Grad-CAM): who wants none reads in `torch.inference_mode()`.
        """

    def _loss_weights(self, losses: Mapping[str, float] | None) -> dict[str, float]:
        """Return the weights of all terms: the published ones, replaced by those given."""
        unknown = sorted(set(losses or {}) - set(self.default_losses))
        if unknown:
            raise UserError(f"unknown loss {unknown}: {type(self).__name__} has {sorted(self.default_losses)}")
        return self.default_losses | dict(losses or {})


@dataclass(frozen=True)
class Published:
    """The setting a paper's parameter count holds for."""

    in_channels: int
    classes: int
    size: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from the defaults of the options dataclass."""


@dataclass(frozen=True)
class Architecture:
    """A registered architecture."""

    name: str
    paper: str
    options: type[JsonRecord]
    """Frozen dataclass; defaults are the published setting, `__post_init__` validates."""
    segmenter: Callable[..., Segmenter]
    published: Published
    spatial_dims: tuple[int, ...]
    axes: tuple[str, ...]
    """Free axes evaluated after training: `scale`, `level`, ..."""
    network: Callable[..., Network] | None = None
    """The wiring alone, `network(options, in_channels=..., spatial_dims=...)`; None: not to be had without heads."""
    also: Mapping[str, Published] = field(default_factory=dict)
    """Other models of the paper that are settings of this architecture, by name."""

    def build(
        self,
        options: Mapping[str, Any],
        *,
        in_channels: int,
        classes: int,
        spatial_dims: int = 2,
        losses: Mapping[str, float] | None = None,
    ) -> Segmenter:
        """Build the Segmenter from JSON options; wrong ones raise `UserError`."""
        self._check_dims(spatial_dims)
        return self.segmenter(
            self.options.from_json(options),
            in_channels=in_channels,
            classes=classes,
            spatial_dims=spatial_dims,
            losses=losses,
        )

    def build_network(self, options: Mapping[str, Any], *, in_channels: int, spatial_dims: int = 2) -> Network:
        """Build the wiring alone, so that the Segmenter of another paper can stand on it."""
        if self.network is None:
            raise UserError(f"'{self.name}' must have a network to build on, but it has none: choose another")
        self._check_dims(spatial_dims)
        return self.network(self.options.from_json(options), in_channels=in_channels, spatial_dims=spatial_dims)

    def _check_dims(self, spatial_dims: int) -> None:
        if spatial_dims not in self.spatial_dims:
            raise UserError(f"{self.name} must have spatial_dims in {list(self.spatial_dims)}, but got {spatial_dims}")

    @property
    def settings(self) -> dict[str, Published]:
        """The published settings by name: the architecture's own, and those of its papers' other models."""
        return {self.name: self.published, **self.also}

    def published_parameters(self, setting: str | None = None) -> int:
        """Count the parameters at a published setting (default: its own), without allocating them."""
        published = self.settings[setting or self.name]
        with torch.device("meta"):
            model = self.build(
                published.options,
                in_channels=published.in_channels,
                classes=published.classes,
                spatial_dims=len(published.size),
            )
        return count_parameters(model)

    def describe(self, setting: str | None = None) -> dict[str, Any]:
        """Return what `overread architectures --json` prints of a published setting (default: its own)."""
        name = setting or self.name
        published = self.settings[name]
        options = self.options.from_json(published.options).to_json()
        options.pop("schema_version")
        return {
            "name": name,
            "architecture": self.name,
            "paper": self.paper,
            "options": options,
            "axes": list(self.axes),
            "parameters": self.published_parameters(name),
            "in_channels": published.in_channels,
            "classes": published.classes,
            "size": list(published.size),
        }


ARCHITECTURES: Registry[Architecture] = Registry("architecture")

SegmenterClass = TypeVar("SegmenterClass", bound=type[Segmenter])


def architecture(
    name: str,
    *,
    paper: str,
    options: type[JsonRecord],
    published: Published,
    spatial_dims: tuple[int, ...] = (2,),
    axes: tuple[str, ...] = (),
    network: Callable[..., Network] | None = None,
    also: Mapping[str, Published] | None = None,
) -> Callable[[SegmenterClass], SegmenterClass]:
    """Register a Segmenter class under `name`: its module's stem `stem`, or `stem_...` where a module has several."""
    if not dataclasses.is_dataclass(options):
        raise TypeError(f"options of '{name}' must be a frozen dataclass, but got {options!r}")

    def register(segmenter: SegmenterClass) -> SegmenterClass:
        entry = Architecture(name, paper, options, segmenter, published, spatial_dims, axes, network, also or {})
        ARCHITECTURES.add(name, entry)
        return segmenter

    return register


def build_segmenter(config: TrialConfig) -> Segmenter:
    """Build the Segmenter of a trial, with the weights that `config.seed` initialises."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ARCHITECTURES[config.architecture].build(
            config.options,
            in_channels=config.in_channels,
            classes=config.classes,
            spatial_dims=config.spatial_dims,
            losses=config.losses,
        )


def build_encoder_decoder(
    name: str, options: Mapping[str, Any], *, in_channels: int, spatial_dims: int = 2
) -> EncoderDecoder:
    """Build the wiring of a registered architecture that has two halves; another kind raises `UserError`."""
    network = ARCHITECTURES[name].build_network(options, in_channels=in_channels, spatial_dims=spatial_dims)
    if not isinstance(network, EncoderDecoder):
        raise UserError(f"the backbone must be an encoder and a decoder, but '{name}' is not: choose another")
    return network


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

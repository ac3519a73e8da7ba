"""What the inner layers of a network see: feature hooks, and the segmentation ability (SA) of every layer.

SA (`confidence.segmentation_ability`) of the layers in order of execution: `input`, each convolution unit after its
activation, `logits`; for a U-Net of five levels these are the layers 0..19 of U-Netmer's Fig. 8, and with a truth
`segmentation` is 20. Several foreground classes are merged: p = 1 - p(background).
A case is read as `predict_volume` reads it, one slice or window at a time, and gets one Dice per layer, in the prepared
grid; where windows overlap their voxels count in each. Padding takes no part.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from overread.architectures.blocks import ConvUnit
from overread.architectures.contract import Losses, Network, Segmenter
from overread.confidence.segmentation_ability import LayerDice, binary_map, centred_logits
from overread.ensemble.reader import Device, MemberReader, class_ids
from overread.errors import UserError, unknown_name
from overread.metrics.overlap import Mask
from overread.records import Batch, Member, Readings, TrialConfig, Variant
from overread.training.inference import predict_volume

INPUT, LOGITS, SEGMENTATION = "input", "logits", "segmentation"
LAST = 2
"""Layers that the mean SA is over."""
_REFERENCE, _VALID = "reference of the SA", "valid voxels of the SA"
logger = logging.getLogger(__name__)


def convolution_layers(segmenter: Segmenter) -> tuple[str, ...]:
    """Return the names of all convolution units; without any, of the convolutions of its Networks, heads left out."""
    units = tuple(name for name, module in segmenter.named_modules() if isinstance(module, ConvUnit))
    return units or bare_convolutions(segmenter)


def bare_convolutions(segmenter: Segmenter) -> tuple[str, ...]:
    """Return the names of all convolutions of the Networks in it, those inside of units too; heads are left out."""
    named = dict(segmenter.named_modules())
    networks = tuple(f"{name}." for name, module in named.items() if isinstance(module, Network)) or ("",)
    return tuple(
        name
        for name, module in named.items()
        if isinstance(module, nn.Conv2d | nn.Conv3d) and name.startswith(networks)
    )


@contextmanager
def watch_layers(
    segmenter: Segmenter, see: Callable[[str, Tensor], object], layers: Sequence[str] | None = None
) -> Iterator[None]:
    """Call `see(name, output)` at each run of each layer, in order of execution.

    A layer that runs again is `<name>#2`, `<name>#3`. Gradients flow through the output; it is good only during the
    call, as later layers may change it in place. `layers` are names of modules (None: `convolution_layers`).
    """
    modules = dict(segmenter.named_modules())
    runs: Counter[str] = Counter()

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise UserError(f"layer '{name}' must give one map, but gave {type(output).__name__}: choose one in it")
            runs[name] += 1
            see(name if runs[name] == 1 else f"{name}#{runs[name]}", output)

        return hook

    with ExitStack() as hooks:
        for name in convolution_layers(segmenter) if layers is None else layers:
            if name not in modules:
                raise unknown_name("layer", name, (known for known in modules if known))
            hooks.callback(modules[name].register_forward_hook(hook_of(name)).remove)
        yield


@contextmanager
def record_layers(
    segmenter: Segmenter,
    layers: Sequence[str] | None = None,
    *,
    wanted: Callable[[str, Tensor], bool] | None = None,
    last: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Collect copies (float32, CPU, without gradient) of what the layers give within the context, by name.

    `wanted(name, output)` says which (None: all), `last` how many of the latest are kept (None: any number). They take
    the memory of the maps that a training step keeps: read few samples at a time.
    """
    maps: dict[str, Tensor] = {}

    def copy(name: str, output: Tensor) -> None:
        if wanted is not None and not wanted(name, output):
            return
        maps[name] = output.detach().to("cpu", torch.float32, copy=True)
        if last is not None and len(maps) > last:
            del maps[next(iter(maps))]

    with watch_layers(segmenter, copy, layers):
        yield maps


def segmentation_ability(
    segmenter: Segmenter,
    image: NDArray[np.floating],
    config: TrialConfig,
    device: Device = "cpu",
    *,
    reference: NDArray[Any] | None = None,
    valid: Mask | None = None,
    variant: Variant | None = None,
    layers: Sequence[str] | None = None,
    extras: Mapping[str, Tensor] | None = None,
) -> list[tuple[str, float]]:
    """Return (layer, SA) of one case, in order of execution.

    Args:
        segmenter: A trained network in evaluation mode, on `device`.
        image: Prepared (C, D, H, W); a slice is (C, 1, H, W).
        config: Of its trial: the windows in which it reads.
        device: Where the network runs.
        reference: Class ids (D, H, W) that the binary maps are compared with; the last entry is then `segmentation`,
            the network's own. None: compare with that one.
        valid: Voxels (D, H, W) that count, such as those of tissue; None: all.
        variant: How to read; layers that see patches instead of whole images (U-Netmer's scales above 1) are left out
            with a warning.
        layers: Names of modules; None: `convolution_layers`.
        extras: Those of the case; None: they are computed.

    """
    watched = _Watched(segmenter, layers)
    watched.watch(image, config, device, reference=reference, valid=valid, variant=variant, extras=extras)
    watched.warn()
    return watched.dice.scores()


def mean_sa(
    segmenter: Segmenter,
    image: NDArray[np.floating],
    config: TrialConfig,
    device: Device = "cpu",
    *,
    last: int = LAST,
    valid: Mask | None = None,
    variant: Variant | None = None,
    extras: Mapping[str, Tensor] | None = None,
) -> float:
    """Return the mean SA of the last layers (the last convolution unit and the logits) against the own segmentation.

    It needs no truth: U-Netmer's baseline confidence of a case. An empty segmentation gives 0 unless the maps are
    empty too, so rank such a case by its flag. Arguments as in `segmentation_ability`.
    """
    watched = _Watched(segmenter, None, last)
    watched.watch(image, config, device, valid=valid, variant=variant, extras=extras)
    watched.warn()
    return watched.mean()


def case_sa(reader: MemberReader, failed: Collection[str]) -> float | None:
    """Return the mean SA of a case by the network of most weight that read it, read as it votes; ties: the first.

    None, and a warning once per package, where that network has no such layers or fails; None too where it segmented
    nothing and a layer separates nothing: their Dice of 1 would rank an overlooked finding as safe. It is one more pass
    of one network, in the prepared grid, which keeps the last two layers of one window or slice alone.
    """
    package = reader.package
    members = [member for member in package.manifest.members if member.name not in failed]
    if not members:
        return None
    member = max(members, key=_weight)
    if member.name in package.without_sa:
        return None
    try:
        segmenter = package.segmenter(member, reader.device)
        watched = _Watched(segmenter, None, LAST)
        variant = segmenter.variant(member.variant)
        extras = reader.extras(segmenter)
        watched.watch(reader.image, member.config, reader.device, variant=variant, extras=extras)
        score = watched.mean()
    except Exception as error:  # a score of one member must not take the case from the others
        package.warn_once("sa_mean of member %s is left out: %s: %s", member.name, type(error).__name__, error)
        if isinstance(error, UserError):  # of the network, not of the case: no further pass for nothing
            package.without_sa.add(member.name)
        return None
    return None if score > 0 and not watched.found else score


def _weight(member: Member) -> float:
    """Return the weight of a member's vote, of one with weights per class their mean over the foreground."""
    own = member.class_weights[1:]
    return sum(own) / len(own) if own else member.weight


class _Watched(Segmenter):
    """Reads like another Segmenter, one sample at a time, and compares each layer's binary map with the reference.

    Reference and valid voxels come as extras, so that they are padded and cut into windows with the image. With `last`
    only so many layers, of which the logits are one, are compared and kept.
    """

    def __init__(self, inner: Segmenter, layers: Sequence[str] | None, last: int | None = None) -> None:
        super().__init__()
        self.inner, self.layers, self.last = inner, layers, last
        self.needs, self.classes = inner.needs, inner.classes
        self.dice = LayerDice()
        self.left_out: dict[str, tuple[int, ...]] = {}
        """Layers that do not give one map per image, and the shape that they give."""
        self.found = False
        """Whether the network segmented anything."""

    def watch(
        self,
        image: NDArray[np.floating],
        config: TrialConfig,
        device: Device,
        *,
        reference: NDArray[Any] | None = None,
        valid: Mask | None = None,
        variant: Variant | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Read a case. Arguments as in `segmentation_ability`."""
        tensor = torch.as_tensor(np.asarray(image), dtype=torch.float32).to(device)
        with torch.inference_mode():
            inputs = dict(self.inner.case_inputs(tensor) if extras is None else extras)
        inputs[_VALID] = _one_channel(np.ones(image.shape[1:], bool) if valid is None else valid, image, "valid")
        if reference is not None:
            inputs[_REFERENCE] = _one_channel(reference > 0, image, "reference")
        predict_volume(self, image, replace(config, batch_size=1), variant, device, extras=inputs)

    def mean(self) -> float:
        """Return the mean SA of the last layers; too few raise `UserError`."""
        scores, last = self.dice.scores(), self.last
        if last is None or not 1 <= last <= len(scores):
            raise UserError(f"mean SA can be over the last 1..{len(scores)} layers of this network, but got {last}")
        return sum(score for _, score in scores[-last:]) / last

    def warn(self) -> None:
        """Tell of the layers that were left out."""
        if self.left_out:
            shapes = ", ".join(f"{name} {shape}" for name, shape in self.left_out.items())
            logger.warning(
                "%d layers are left out of the segmentation ability: their maps must be of the whole image, "
                "(1, channels, *sizes), but are of patches or tokens: %s",
                *(len(self.left_out), shapes),
            )

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        """Return the losses of the network it reads like."""
        return self.inner(batch, part)

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        """Return the readings of the network, after a look at its layers."""
        extras = dict(batch.extras)
        valid = _mask(extras.pop(_VALID))
        truth = _mask(extras.pop(_REFERENCE)) if _REFERENCE in extras else None
        own_batch = replace(batch, extras=extras)

        def whole(name: str, output: Tensor) -> bool:
            right = output.ndim == batch.images.ndim and len(output) == len(batch.images)
            if not right:
                self.left_out[name] = tuple(output.shape)
            return right

        before_logits = None if self.last is None else max(self.last - 1, 0)
        with record_layers(self.inner, self.layers, wanted=whole, last=before_logits) as maps:
            readings = self.inner.read(own_batch, variant=variant, anchors=anchors, generator=generator)
        probabilities = readings.probabilities[0].float().cpu().numpy()
        segmentation = class_ids(probabilities) > 0
        reference = segmentation if truth is None else truth
        logits = torch.from_numpy(centred_logits(probabilities))[None]
        self.found |= bool(segmentation[valid].any())
        first = {} if self.last is not None else {INPUT: batch.images.cpu()}
        for name, features in {**first, **maps, LOGITS: logits}.items():
            found = binary_map(features[0].numpy(), 1 - probabilities[0], valid)
            self.dice.add(name, found, reference, valid)
        if truth is not None:
            self.dice.add(SEGMENTATION, segmentation, truth, valid)
        return readings


def _one_channel(mask: NDArray[Any], image: NDArray[Any], name: str) -> Tensor:
    if mask.shape != image.shape[1:]:
        raise UserError(f"{name} must have the shape {image.shape[1:]} of the prepared image, but has {mask.shape}")
    return torch.from_numpy(mask[None].astype(np.float32))


def _mask(extra: Tensor) -> Mask:
    """(1, 1, *S) -> (*S)."""
    return extra[0, 0].cpu().numpy() > 0

"""Grad-CAM of any network: where the last convolutions see what makes it say foreground (Selvaraju et al. 2017).

The score is the sum of the foreground's log-odds over the voxels that the network takes for it (for segmentation:
Seg-Grad-CAM, Vinogradova et al. 2020; log-odds of a sigmoid head are its logits, of a softmax over two classes their
difference). In float32 they have a slope up to 69, where `FLOOR` ends them; those of a detector, whose 1 - p has to be
subtracted, up to 17. A layer's maps A_k are weighted by the spatial mean w_k of the score's gradient, and
    map = ReLU(sum_k w_k A_k), resized to the image and brought to [0, 1] by its least and largest value.
UGS-Net (Fig. 9) shows the last three convolutions; here these are the last three convolution units (after their
activation) that are run and that the score depends on; of a network with fewer, its bare convolutions. A map that is
the same everywhere, as where no foreground is predicted or no weight is above zero, is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from overread.architectures.contract import Segmenter
from overread.ensemble.features import bare_convolutions, watch_layers
from overread.ensemble.reader import Device
from overread.errors import UserError
from overread.records import Batch, TrialConfig, Variant
from overread.training.inference import pad_amounts

LAST = 3
FLOOR = 1e-30
"""Least probability that a logarithm is taken of: float32 holds it, and its gradient too."""


def grad_cam(
    segmenter: Segmenter,
    image: NDArray[np.floating],
    config: TrialConfig,
    device: Device = "cpu",
    *,
    class_id: int | None = None,
    layers: Sequence[str] | None = None,
    last: int = LAST,
    variant: Variant | None = None,
    extras: Mapping[str, Tensor] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Return the map (*S) in [0, 1] of the last layers of a case, in order of execution.

    Args:
        segmenter: A trained network in evaluation mode, on `device`.
        image: Prepared (C, D, H, W); 2-D networks take one slice, (C, 1, H, W). It is read as a whole, not by windows.
        config: Of its trial: the least size that it reads.
        device: Where the network runs.
        class_id: The class whose maps these are; None: all foreground classes together.
        layers: Names of modules; None: `convolution_layers`, or if those are too few `bare_convolutions`.
        last: How many of the layers.
        variant: How to read; None: `main`.
        extras: Those of the case (channels, D, H, W); None: they are computed.

    """
    if last < 1:
        raise UserError(f"Grad-CAM must be of at least one layer, but got {last}")
    if class_id is not None and not 0 < class_id < segmenter.classes:
        raise UserError(f"class_id must be a foreground class, 1..{segmenter.classes - 1}, but got {class_id}")
    batch, crop = _whole(segmenter, image, config, torch.device(device), extras)
    used = _layer_maps(segmenter, batch, variant, class_id, layers)
    if len(used) < last and layers is None:
        used = _layer_maps(segmenter, batch, variant, class_id, bare_convolutions(segmenter))
    if len(used) < last:
        raise UserError(
            f"Grad-CAM must be of {last} layers with maps of the whole image, but this network has {len(used)}: "
            "ask for fewer or name others"
        )
    size = batch.images.shape[2:]
    return {name: _heat(maps, slope, size)[crop].cpu().numpy() for name, maps, slope in used[-last:]}


def _layer_maps(
    segmenter: Segmenter, batch: Batch, variant: Variant | None, class_id: int | None, layers: Sequence[str] | None
) -> list[tuple[str, Tensor, Tensor]]:
    """Return name, maps and gradient (1, C, *s) of the layers that see the whole image and that the score needs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        if output.ndim == batch.images.ndim and len(output) == 1 and output.requires_grad:
            seen[name] = output

    with torch.enable_grad(), watch_layers(segmenter, keep, layers):
        score = foreground_score(segmenter.read(batch, variant=variant).probabilities.float(), class_id)
        slopes = torch.autograd.grad(score, list(seen.values()), allow_unused=True) if seen else ()
    found = zip(seen.items(), slopes, strict=True)
    return [(name, maps.detach(), slope) for (name, maps), slope in found if slope is not None]


def foreground_score(probabilities: Tensor, class_id: int | None = None) -> Tensor:
    """Return the sum of log p - log (1 - p) over the voxels predicted as the class (None: as any foreground class).

    `probabilities` are (B, K, *S) with background; p is that of the class, or of all foreground classes together.
    """
    chosen = torch.zeros(probabilities.shape[1], dtype=torch.bool, device=probabilities.device)
    chosen[slice(1, None) if class_id is None else class_id] = True
    inside, outside = (probabilities[:, which].sum(1).clamp_min(FLOOR) for which in (chosen, ~chosen))
    predicted = chosen[probabilities.argmax(1)]
    return ((inside.log() - outside.log()) * predicted).sum()


def _whole(
    segmenter: Segmenter,
    image: NDArray[np.floating],
    config: TrialConfig,
    device: torch.device,
    extras: Mapping[str, Tensor] | None,
) -> tuple[Batch, tuple[slice, ...]]:
    """Return the padded image as a batch of one, and where it lies in it."""
    flat = config.spatial_dims == 2
    if image.ndim != 4 or (flat and image.shape[1] != 1):
        wanted = "(C, 1, H, W), one slice," if flat else "(C, D, H, W)"
        raise UserError(f"the image must be {wanted} for this network, but has shape {image.shape}")
    tensor = torch.as_tensor(np.asarray(image), dtype=torch.float32).to(device)
    with torch.no_grad():
        inputs = segmenter.case_inputs(tensor) if extras is None else extras
    shape = tuple(image.shape[4 - config.spatial_dims :])
    multiple = segmenter.needs.size_multiple
    least = (max(have, size) for have, size in zip(shape, config.patch_size, strict=True))
    padding = pad_amounts((1, 1, *shape)[-3:], tuple(-(-size // multiple) * multiple for size in least))
    pads = [amount for pair in reversed(padding) for amount in pair]

    def placed(values: Tensor) -> Tensor:
        padded = F.pad(values.to(device), pads)
        return (padded[:, 0] if flat else padded)[None]

    images = placed(tensor).requires_grad_()  # so that a frozen network has gradients, too
    none = (1, 0, *images.shape[2:])
    batch = Batch(
        images=images,
        labels=torch.zeros(none, dtype=torch.uint8, device=device),
        valid=torch.zeros(none[:2], dtype=torch.bool, device=device),
        extras={name: placed(extra) for name, extra in inputs.items()},
    )
    return batch, tuple(slice(first, first + n) for (first, _), n in zip(padding[-len(shape) :], shape, strict=True))


def _heat(maps: Tensor, slope: Tensor, size: Any) -> Tensor:
    """Return the map (*S) of a layer's maps and their gradient (1, C, *s)."""
    weights = slope.flatten(2).mean(2).reshape(*slope.shape[:2], *[1] * (slope.ndim - 2))
    heat = (weights * maps.float()).sum(1, keepdim=True).relu()
    mode = "bilinear" if heat.ndim == 4 else "trilinear"
    heat = F.interpolate(heat, size=tuple(size), mode=mode, align_corners=False)[0, 0]
    low, high = heat.min(), heat.max()
    return (heat - low) / (high - low) if high > low else torch.zeros_like(heat)

"""Where the networks of a package look in one image: Grad-CAM of their last convolutions, as one picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from overread.data.images import read_image
from overread.data.prepare import serial_map
from overread.data.preprocess import preprocess_image
from overread.ensemble.grad_cam import LAST, grad_cam
from overread.ensemble.package import Package, load_package
from overread.errors import UserError
from overread.pipeline.prediction import check_images, find_images
from overread.records import Manifest, Member
from overread.review.figures import Pictured, pictured
from overread.training.inference import predict_volume

log = logging.getLogger(__name__)


def explain(
    package: Path,
    images: Path,
    case_id: str,
    out: Path,
    *,
    members: Sequence[str] = (),
    label: str | None = None,
    last: int = LAST,
    device: str = "cpu",
) -> Path:
    """Write a picture with a row for each member: the image, and Grad-CAM of its last convolutions; return its path.

    Of a volume, the slice with most of what the member finds. `members` by name (none: all trained ones); `label`: the
    class whose maps these are (None: all foreground classes together).
    """
    opened = load_package(package)
    manifest = opened.manifest
    chosen, class_id = _chosen(manifest, members), _class_id(manifest, label)
    cases = find_images(images, len(manifest.preprocessing.channels))
    if case_id not in cases:
        some = ", ".join(list(cases)[:5]) + (", ..." if len(cases) > 5 else "")
        raise UserError(f"--case must be one of the {len(cases)} images ({some}), but got '{case_id}'")
    check_images(images, {case_id: cases[case_id]}, manifest, serial_map)
    native = read_image([Path(name) for name in cases[case_id]])
    image = preprocess_image(native.array, manifest.preprocessing)
    rows = [_row(opened, member, image, case_id, class_id, last, device) for member in chosen]
    pictured(out, rows)
    return out


def _chosen(manifest: Manifest, names: Sequence[str]) -> list[Member]:
    known = {member.name: member for member in manifest.members}
    unknown = [name for name in names if name not in known]
    if unknown or not known:
        found = ", ".join(unknown) or "no trained member"
        raise UserError(f"members must be networks of the package ({', '.join(known) or 'none'}), but got {found}")
    return [known[name] for name in names] if names else list(known.values())


def _class_id(manifest: Manifest, label: str | None) -> int | None:
    labels = manifest.label_names[1:]
    if label is None:
        return None
    if label not in labels:
        raise UserError(f"the class must be one of {', '.join(labels)}, but got '{label}'")
    return 1 + labels.index(label)


def _row(
    package: Package,
    member: Member,
    image: np.ndarray,
    case_id: str,
    class_id: int | None,
    last: int,
    device: str,
) -> list[Pictured]:
    """Return the panels of one member for an image (C, D, H, W)."""
    segmenter = package.segmenter(member, device)
    variant = segmenter.variant(member.variant)
    mask = predict_volume(segmenter, image, member.config, variant, device).argmax(0)
    found = (mask > 0 if class_id is None else mask == class_id).reshape(len(mask), -1).sum(1)
    if not found.any():
        log.warning("%s finds nothing in %s: its maps are empty", member.name, case_id)
    place = int(found.argmax()) if found.any() else len(mask) // 2
    flat = member.config.spatial_dims == 2
    shown = image[:, place : place + 1] if flat else image
    maps = grad_cam(segmenter, shown, member.config, device, class_id=class_id, last=last, variant=variant)
    grey = image[0, place]
    title = f"{case_id[:18]}, {member.name[:18]}"
    heats = (Pictured(name[-28:], grey, heat if flat else heat[place]) for name, heat in maps.items())
    return [Pictured(title, grey), *heats]

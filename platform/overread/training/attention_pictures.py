"""Pictures of what a ViT attends to: some slices, each beside the map of every head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from overread.architectures.attention_maps import slice_maps
from overread.architectures.vit import ViT
from overread.data.overlay import Panel, panel_png
from overread.jsonio import write_bytes

SIDE = 128
"""Of a picture, about, in pixels."""


def write_attention(path: Path, vit: ViT, slices: Sequence[Tensor], image_size: int) -> None:
    """Write one PNG: for each slice (C, H, W) its first channel and the maps of the heads, 1 first."""
    place = next(vit.parameters()).device
    panels: list[Panel] = []
    for number, image in enumerate(slices, 1):
        with torch.inference_mode():
            (maps,) = slice_maps(vit, image[None].to(place), image_size).cpu()
        panels.append((f"slice {number}", image[0].numpy(), {}))
        panels += [(f"head {head}", values.numpy(), {}) for head, values in enumerate(maps, 1)]
    write_bytes(path, panel_png(panels, side=SIDE))

"""Pictures of masks over images: contours in colours that colour-blind people tell apart, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
)
"""Okabe and Ito's palette, without black and dark blue, which are lost on grey images."""
ROLES: dict[str, tuple[int, int, int]] = {
    "prediction": COLOURS[0],
    "truth": COLOURS[1],
    "possible": COLOURS[3],
    "consensus": COLOURS[2],
}
"""Layers of these names have the same colour in every picture."""
CAPTION_HEIGHT = 18
GAP = 6

Panel = tuple[str, NDArray[Any], Mapping[str, NDArray[Any]]]
"""Caption, image (H, W), layers."""


def best_slice(mask: NDArray[Any]) -> int:
    """Return the index along D of the slice (D, H, W) with most foreground; the middle one if there is none."""
    counts = np.count_nonzero(mask, axis=(1, 2))
    return int(counts.argmax()) if counts.any() else len(mask) // 2


def panel_png(panels: Sequence[Panel], *, side: int = 256) -> bytes:
    """Return a PNG of several overlays side by side, each under its caption."""
    from PIL import Image, ImageDraw

    pictures = [draw_overlay(image, layers, side=side) for _, image, layers in panels]
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    height = CAPTION_HEIGHT + max(picture.height for picture in pictures)
    sheet = Image.new("RGB", (width, height), (24, 24, 24))
    draw, left = ImageDraw.Draw(sheet), 0
    for (caption, _, _), picture in zip(panels, pictures, strict=True):
        draw.text((left + 3, 3), caption, fill=(235, 235, 235))
        sheet.paste(picture, (left, CAPTION_HEIGHT))
        left += picture.width + GAP
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def layer_colour(name: str, index: int) -> tuple[int, int, int]:
    """Return the colour of a layer: that of its role, else the palette's by its index."""
    return ROLES.get(name, COLOURS[index % len(COLOURS)])


def draw_overlay(image: NDArray[Any], layers: Mapping[str, NDArray[Any]], *, side: int = 256) -> Image:
    """Return a grey image (H, W) with the contours of each layer, a mask (H, W) of any type, 0 outside.

    The picture is enlarged by a whole factor to about `side` pixels, so that contours stay thin.
    """
    from PIL import Image

    factor = max(1, round(side / max(image.shape)))
    grey = _enlarge(_grey(image), factor)
    pixels = np.repeat(grey[:, :, None], 3, axis=2)
    for index, (name, mask) in enumerate(layers.items()):
        pixels[contour(_enlarge(np.asarray(mask), factor))] = layer_colour(name, index)
    return Image.fromarray(pixels)


def contour(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels of a mask (H, W) of class ids that touch, by an edge, another class or the picture's border."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    differs = np.logical_or.reduce([inner != neighbour for neighbour in neighbours])
    return np.asarray(differs & (inner != 0))


def _grey(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Map the 1-99 percentile range of an image to 0-255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = np.percentile(values, (1, 99))
    return np.asarray(np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255, dtype=np.uint8)


def _enlarge(array: NDArray[Any], factor: int) -> NDArray[Any]:
    return array.repeat(factor, axis=0).repeat(factor, axis=1)

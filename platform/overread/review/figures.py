"""Figures drawn by matplotlib: bars, lines, scatters, coverage curves, and contours and maps on images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from overread.confidence.coverage import correlation, coverage_curve
from overread.jsonio import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from overread.ensemble.pruning import LevelCost

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette: told apart by every eye."""


@contextmanager
def drawing(
    path: Path, width: float = 6.0, height: float = 3.6, columns: int | None = None, rows: int = 1
) -> Iterator[Any]:
    """Give the axes of a new figure and write it as PNG: one, or where `columns` are told an array (rows, columns).

    What is told may be 1: a figure of as many panels as there are rows to show need not know how many.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * (columns or 1), height * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns or 1, squeeze=False)
    yield axes[0, 0] if columns is None else axes
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def grouped_bars(
    axes: Axes, labels: Sequence[str], series: Mapping[str, Sequence[float | None]], title: str, unit: str
) -> None:
    """Draw one group of bars per label and one bar per series; a missing value leaves a gap."""
    width = 0.8 / max(len(series), 1)
    for index, (name, values) in enumerate(series.items()):
        places = np.arange(len(labels)) + (index - (len(series) - 1) / 2) * width
        heights = [np.nan if value is None else value for value in values]
        axes.bar(places, heights, width, label=name, color=COLOURS[index % len(COLOURS)])
    axes.set_xticks(range(len(labels)), labels)
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(unit)
    known = [v for values in series.values() for v in values if v is not None]
    if known and min(known) > 0:
        axes.set_ylim(bottom=max(0.0, min(known) - 0.15 * (max(known) - min(known) + 0.05)))
    axes.legend(fontsize=8)


def lines(axes: Axes, series: Mapping[str, Sequence[tuple[float, float]]], title: str, x: str, y: str) -> None:
    """Draw one line per series of (x, y) points; where every x is whole, so is every mark of the axis."""
    for index, (name, points) in enumerate(series.items()):
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axes.plot(xs, ys, marker="o", markersize=3, label=name, color=COLOURS[index % len(COLOURS)])
    if all(float(at).is_integer() for points in series.values() for at, _ in points):
        axes.locator_params(axis="x", integer=True)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)
    if series:
        axes.legend(fontsize=8)


def boxes(axes: Axes, values: Mapping[str, Sequence[float]], title: str, unit: str) -> None:
    """Draw a box per name: median, quartiles, whiskers to 1.5 interquartile ranges, the rest as points."""
    axes.boxplot(list(values.values()), tick_labels=list(values), flierprops={"markersize": 3})
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(unit)
    axes.tick_params(axis="x", labelsize=7, rotation=30)
    axes.grid(axis="y", alpha=0.3)


def pruning_levels(path: Path, costs: Sequence[LevelCost], iou: Mapping[int, float], cases: int) -> Path:
    """Draw parameters, speed and mean IoU (by level, over `cases`) of the pruning levels (UNet#, Fig. 7)."""
    labels = [f"L{cost.level}" for cost in costs]
    panels = (
        ("parameters (millions)", [cost.parameters / 1e6 for cost in costs]),
        (f"patches of {costs[0].sides} per second", [1 / cost.seconds for cost in costs]),
        (f"mean IoU (n = {cases})", [iou[cost.level] for cost in costs]),
    )
    with drawing(path, 3.2, 3.0, len(panels)) as axes:
        for ax, (title, values) in zip(axes[0], panels, strict=True):
            ax.bar_label(ax.bar(labels, values, color=COLOURS[0]), fmt="%.3g", fontsize=8)
            ax.margins(y=0.1)
            ax.set_title(title, fontsize=10)
        low, high = min(iou.values()), max(iou.values())
        axes[0][2].set_ylim(max(0.0, low - 0.1), min(1.0, high + 0.05))
    return path


def dice_scatter(axes: Axes, name: str, confidence: Sequence[float | None], dice: Sequence[float]) -> None:
    """Draw Dice over a confidence, with Pearson's r and n."""
    pairs = [(c, d) for c, d in zip(confidence, dice, strict=True) if c is not None]
    found = correlation(confidence, dice)
    axes.scatter([c for c, _ in pairs], [d for _, d in pairs], s=10, color=COLOURS[0], alpha=0.7)
    r = "not defined" if found.pearson is None else f"{found.pearson:.3f}"
    axes.set(title=f"{name}: r = {r} (n = {found.n})", xlabel=name, ylabel="Dice")
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)


def coverage_lines(axes: Axes, scores: Mapping[str, Sequence[float | None]], dice: Sequence[float], title: str) -> None:
    """Draw the mean Dice of the most confident d % of the cases over d, one line per score."""
    series = {
        name: [(float(p.coverage), p.dice) for p in coverage_curve(values, dice)] for name, values in scores.items()
    }
    lines(axes, series, title, "coverage (%)", "mean Dice")


@dataclass(frozen=True)
class Contoured:
    """A grey image (H, W) with named masks (H, W) to draw as contours."""

    title: str
    image: NDArray[Any]
    masks: Mapping[str, NDArray[Any]]


def contoured(path: Path, panels: Sequence[Contoured], columns: int = 4) -> Path | None:
    """Write panels of images with the contours of their masks, one colour per name in their order; none: nothing."""
    if not panels:
        return None
    shown = min(columns, len(panels))
    rows = -(-len(panels) // shown)
    with drawing(path, 2.6, 2.9, shown, rows) as axes:
        for place, ax in enumerate(axes.ravel()):
            ax.axis("off")
            if place >= len(panels):
                continue
            panel = panels[place]
            ax.imshow(panel.image, cmap="gray")
            for index, (name, mask) in enumerate(panel.masks.items()):
                colour = COLOURS[index % len(COLOURS)]
                if 0 < mask.sum() < mask.size:
                    ax.contour(mask, levels=[0.5], colors=[colour], linewidths=1.1)
                ax.text(0.02, 0.98 - 0.09 * index, name, color=colour, transform=ax.transAxes, fontsize=7, va="top",
                        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1})  # fmt: skip
            ax.set_title(panel.title, fontsize=8)
    return path


@dataclass(frozen=True)
class Coloured:
    """A grey image (H, W) with object ids (H, W), 0 none."""

    title: str
    image: NDArray[Any]
    ids: NDArray[Any]


def coloured(path: Path, panels: Sequence[Coloured], columns: int = 4) -> Path:
    """Write panels of images whose objects are filled with colours that differ from object to object."""
    shown = min(columns, len(panels))
    rows = -(-len(panels) // shown)
    palette = np.random.default_rng(0).permutation(np.linspace(0, 1, 4096, endpoint=False))
    with drawing(path, 2.6, 2.8, shown, rows) as axes:
        for place, ax in enumerate(axes.ravel()):
            ax.axis("off")
            if place < len(panels):
                panel = panels[place]
                ax.imshow(panel.image, cmap="gray")
                hue = np.ma.masked_where(panel.ids == 0, palette[panel.ids % len(palette)])
                ax.imshow(hue, cmap="hsv", vmin=0, vmax=1, alpha=0.5, interpolation="nearest")
                ax.set_title(f"{panel.title}: {int(panel.ids.max())} objects", fontsize=8)
    return path


@dataclass(frozen=True)
class Pictured:
    """A grey image (H, W), and over it a map (H, W) in [0, 1]; where that is 0 the image shows."""

    title: str
    image: NDArray[Any]
    heat: NDArray[Any] | None = None


def pictured(path: Path, rows: Sequence[Sequence[Pictured]]) -> Path | None:
    """Write rows of pictures, each as many as the longest has at most; no row: nothing."""
    columns = max(map(len, rows), default=0)
    if not columns:
        return None
    with drawing(path, 2.3, 2.5, columns, len(rows)) as axes:
        for line, panels in zip(axes, rows, strict=True):
            for place, ax in enumerate(line):
                ax.axis("off")
                if place < len(panels):
                    panel = panels[place]
                    ax.imshow(panel.image, cmap="gray")
                    if panel.heat is not None:
                        shown = np.ma.masked_where(panel.heat < 0.02, panel.heat)
                        ax.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=0.6, interpolation="nearest")
                    ax.set_title(panel.title, fontsize=8)
    return path

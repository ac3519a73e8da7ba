"""Curves of the review page as inline SVG: they take the page's colours, light or dark, and need no script.

Series differ by colour, dash and marker, so they stay apart in print and for every eye.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from overread.confidence.coverage import CoveragePoint

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 44
DASHES = ("", "7 4", "2 3", "9 3 2 3")
"""Stroke dashes by series; the page's style gives the colours `.s0` to `.s3`."""
MARKERS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-4-4h8v8h-8z", "M0-5l5 9h-10z", "M0-5l5 5-5 5-5-5z")


@dataclass(frozen=True)
class Axis:
    """A linear axis: values low..high go to pixels first..last."""

    low: float
    high: float
    first: float
    last: float

    def pixel(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self, most: int = 6) -> list[float]:
        """Return at most `most` + 1 round values inside the axis."""
        raw = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 10) for i in range(first, last + 1)]


def coverage_svg(series: Mapping[str, Sequence[CoveragePoint]]) -> str:
    """Return the curve of mean Dice of the rest over the share that is reviewed by hand; nothing without points."""
    points = {name: [(100.0 - p.coverage, p.dice) for p in found] for name, found in series.items() if found}
    if not points:
        return ""
    x = Axis(0, 100, LEFT, WIDTH - RIGHT)
    y = _padded([v for line in points.values() for _, v in line], HEIGHT - BOTTOM, TOP)
    body = [_frame(x, y, "worst cases reviewed by hand (%)", "mean Dice of the rest")]
    body += [_series(i, name, line, x, y) for i, (name, line) in enumerate(points.items())]
    body.append(_legend(list(points)))
    return _svg("Mean Dice of the remaining cases over the share of cases reviewed by hand", body)


def scatter_svg(cases: Sequence[tuple[str, float, float]]) -> str:
    """Return the picture of (case, confidence, Dice), one mark per case; nothing for fewer than two cases."""
    if len(cases) < 2:
        return ""
    x = _padded([c for _, c, _ in cases], LEFT, WIDTH - RIGHT)
    y = _padded([d for _, _, d in cases], HEIGHT - BOTTOM, TOP)
    marks = [
        f'<circle class="mark s0" cx="{x.pixel(c):.1f}" cy="{y.pixel(d):.1f}" r="4">'
        f"<title>{escape(name)}: confidence {c:.3f}, Dice {d:.3f}</title></circle>"
        for name, c, d in cases
    ]
    return _svg("Dice over confidence, one mark per case", [_frame(x, y, "confidence", "Dice"), *marks])


def _padded(values: Sequence[float], first: float, last: float) -> Axis:
    """Return an axis for shares of 1 that leaves some room around the values: equal ones still get an axis."""
    low, high = min(values), max(values)
    room = max(0.08 * (high - low), 0.01)
    return Axis(max(0.0, low - room), min(1.0 + room / 2, high + room), first, last)


def _svg(title: str, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>{"".join(body)}</svg>'
    )


def _frame(x: Axis, y: Axis, x_title: str, y_title: str) -> str:
    grid = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.pixel(v):.1f}" y2="{y.pixel(v):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y.pixel(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
        for v in y.ticks()
    ]
    grid += [
        f'<line class="grid" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="{x.pixel(v):.1f}" x2="{x.pixel(v):.1f}"/>'
        f'<text x="{x.pixel(v):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{v:g}</text>'
        for v in x.ticks(10)
    ]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    grid.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_title}</text>')
    grid.append(f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{y_title}</text>')
    return "".join(grid)


def _series(index: int, name: str, line: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    style, ordered = index % len(DASHES), sorted(line)
    path = " ".join(f"{x.pixel(a):.1f},{y.pixel(b):.1f}" for a, b in ordered)
    marks = [
        f'<path class="mark s{style}" transform="translate({x.pixel(a):.1f} {y.pixel(b):.1f})" d="{MARKERS[style]}">'
        f"<title>{escape(name)}: {a:.0f} % reviewed, Dice of the rest {b:.3f}</title></path>"
        for a, b in ordered
    ]
    return f'<polyline class="line s{style}" stroke-dasharray="{DASHES[style]}" points="{path}"/>{"".join(marks)}'


def _legend(names: Sequence[str]) -> str:
    """Return the names of the series at the lower right, where a curve that rises leaves room."""
    rows = []
    for index, name in enumerate(names):
        style, y = index % len(DASHES), HEIGHT - BOTTOM - 12 - 16 * (len(names) - 1 - index)
        rows.append(
            f'<text x="{WIDTH - RIGHT - 44}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<line class="line s{style}" stroke-dasharray="{DASHES[style]}" '
            f'x1="{WIDTH - RIGHT - 38}" x2="{WIDTH - RIGHT - 6}" y1="{y}" y2="{y}"/>'
            f'<path class="mark s{style}" transform="translate({WIDTH - RIGHT - 22} {y})" d="{MARKERS[style]}"/>'
        )
    return "".join(rows)

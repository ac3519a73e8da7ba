import xml.etree.ElementTree as ET

import pytest

from overread.confidence.coverage import CoveragePoint
from overread.review.curves import DASHES, Axis, coverage_svg, scatter_svg

SVG = "{http://www.w3.org/2000/svg}"


def line(*dice: float) -> tuple[CoveragePoint, ...]:
    return tuple(CoveragePoint(coverage=50 * (i + 1), n=i + 1, dice=d) for i, d in enumerate(dice))


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314  (our own text)


def test_axis_maps_linearly_also_downwards() -> None:
    assert Axis(0, 100, 48, 506).pixel(50) == 277
    assert Axis(0.5, 1.0, 250, 10).pixel(1.0) == 10


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.58, 0.91, [0.6, 0.7, 0.8, 0.9]),
        (0.99, 1.01, [0.99, 0.995, 1.0, 1.005, 1.01]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    assert Axis(low, high, 0, 1).ticks() == ticks


def test_coverage_runs_from_nothing_reviewed_to_the_right() -> None:
    root = parsed(coverage_svg({"relation confidence": line(0.9, 0.8)}))
    (curve,) = root.iter(f"{SVG}polyline")
    (x0, y0), (x1, y1) = (tuple(map(float, p.split(","))) for p in curve.attrib["points"].split())
    assert x0 == 48.0  # all kept, nothing reviewed: left edge
    assert x1 == 277.0  # half reviewed: the middle
    assert y0 > y1  # Dice rises, pixels count downwards
    assert [t.text for t in root.iter(f"{SVG}title")][1:3] == [
        "relation confidence: 0 % reviewed, Dice of the rest 0.800",
        "relation confidence: 50 % reviewed, Dice of the rest 0.900",
    ]


def test_series_differ_by_dash_and_colour() -> None:
    root = parsed(coverage_svg({"a": line(0.9, 0.8), "b": line(0.7, 0.6)}))
    curves = list(root.iter(f"{SVG}polyline"))
    assert [c.attrib["class"] for c in curves] == ["line s0", "line s1"]
    assert [c.attrib["stroke-dasharray"] for c in curves] == list(DASHES[:2])


def test_equal_values_still_have_an_axis() -> None:
    assert parsed(coverage_svg({"a": line(1.0, 1.0)})) is not None
    assert parsed(coverage_svg({"a": line(0.0)})) is not None
    assert len(list(parsed(scatter_svg([("x", 0.5, 0.5), ("y", 0.5, 0.5)])).iter(f"{SVG}circle"))) == 2


def test_nothing_to_draw_is_nothing() -> None:
    assert coverage_svg({}) == coverage_svg({"a": ()}) == ""
    assert scatter_svg([("x", 0.5, 0.5)]) == ""


def test_names_are_escaped() -> None:
    root = parsed(scatter_svg([("<b>&", 0.1, 0.2), ("y", 0.3, 0.4)]))
    assert "<b>&: confidence 0.100, Dice 0.200" in [t.text for t in root.iter(f"{SVG}title")]

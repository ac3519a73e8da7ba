"""The figures of the reproduction of UGS-Net: confidence masks, densities, Grad-CAM, calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from overread.architectures.intersection_union import INTERSECTION, UNION
from overread.architectures.ugs_net import multi_confidence_mask, true_multi_confidence_mask
from overread.ensemble.grad_cam import grad_cam
from overread.metrics.densities import kernel_density
from overread.reproduction.measuring import TestCase
from overread.reproduction.results import Findings, RowResult, spread
from overread.reproduction.ugsnet_measures import (
    CONFIDENCES,
    REGIONS,
    Floats,
    Opinions,
    intensity_unit,
    pooled_bins,
    pooled_intensities,
)
from overread.reproduction.ugsnet_tables import BACKBONE, MASKED, NAMES
from overread.review import figures
from overread.review.figures import Pictured

SHOWN = 5
"""Cases of a figure, from the one that agrees least with its annotators to the one that agrees most."""
POINTS = 80
"""Of a density."""


def pictures(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write the figures as far as their rows are trained; return those written."""
    makers = (draw_masks, draw_densities, draw_grad_cam, draw_calibration)
    return tuple(path for maker in makers if (path := maker(findings, folder)) is not None)


def shown_row(findings: Findings) -> RowResult | None:
    """Return UGS-Net, or of the rows with a Multi-Confidence Mask the first that is trained."""
    return next((findings.results[name] for name in MASKED if findings.tested(name)), None)


def chosen_cases(result: RowResult) -> list[str]:
    """Return `SHOWN` cases, evenly spread over the Dice with their annotators."""
    ranked = sorted((value, c.case) for c in result.cases if (value := c.values.get("annotator_dice")) is not None)
    return [case for _, case in spread(ranked, SHOWN)]


def shown_slice(case: TestCase, values: Floats) -> Floats:
    """Return an image (*native) itself, of a volume the slice (H, W) with most truth."""
    axis = case.prepared.preprocessing.slice_axis
    return values if axis is None else np.take(values, _fullest(case), axis)


def _fullest(case: TestCase) -> int:
    axis = case.prepared.preprocessing.slice_axis
    if axis is None:
        return 0
    return int(np.moveaxis(case.truth > 0, axis, 0).reshape(case.truth.shape[axis], -1).sum(1).argmax())


def draw_masks(findings: Findings, folder: Path) -> Path | None:
    """Figs. 1 and 7: the Multi-Confidence Mask of the annotators, and the predicted one, soft and hard."""
    result = shown_row(findings)
    if result is None:
        return None
    return figures.pictured(folder / "fig01-07-multi-confidence.png", mask_panels(findings, result))


def mask_panels(findings: Findings, result: RowResult) -> list[list[Pictured]]:
    """Return for each chosen case the image, and on it what the annotators and the network say of every pixel."""
    rows = []
    for case_id in chosen_cases(result):
        case = findings.opened(result.row, case_id)
        opinions = Opinions.of(case)
        union, intersection = opinions.branches[UNION], opinions.branches[INTERSECTION]
        maps = {
            f"{len(opinions.annotations)} annotators": true_multi_confidence_mask(opinions.annotations),
            "share of annotators": opinions.annotations.mean(0),
            "MCM": multi_confidence_mask(union, intersection),
            "MCM, hard": multi_confidence_mask(union, intersection, hard=True),
        }
        image = shown_slice(case, case.native(case.image)[0])
        heats = (Pictured(title, image, shown_slice(case, heat)) for title, heat in maps.items())
        rows.append([Pictured(case_id[:14], image), *heats])
    return rows


def draw_densities(findings: Findings, folder: Path) -> Path | None:
    """Fig. 8: densities of the intensity inside HC and LC over all test cases, real and predicted."""
    result = shown_row(findings)
    if result is None:
        return None
    pooled = {
        (name, predicted): pooled_intensities(result, name, predicted=predicted)
        for name in REGIONS
        for predicted in (False, True)
    }
    everything = np.concatenate([values for values, _ in pooled.values()])
    if not everything.size:
        return None
    points = np.linspace(everything.min(), everything.max(), POINTS)
    path = folder / "fig08-densities.png"
    with figures.drawing(path, 4.6, 3.4, len(REGIONS)) as axes:
        for ax, name in zip(axes[0], REGIONS, strict=True):
            series = {}
            for predicted, label in ((False, "real"), (True, "predicted")):
                values, pixels = pooled[name, predicted]
                density = kernel_density(values, points, pixels)
                if density is not None:
                    told = f"{label} ({round(pixels.sum()):,} pixels)"
                    series[told] = list(zip(points.tolist(), density.tolist(), strict=True))
            title = f"Fig. 8: {name.upper()}, {result.row}"
            figures.lines(ax, series, title, intensity_unit(findings.prepared), "density")
    return path


def draw_grad_cam(findings: Findings, folder: Path) -> Path | None:
    """Fig. 9: the last three convolutions of UGS-Net and of its backbone."""
    result = shown_row(findings)
    if result is None:
        return None
    names = [name for name in (result.row, BACKBONE) if findings.tested(name)]
    rows = []
    for case_id in chosen_cases(result):
        panels: list[Pictured] = []
        for name in names:
            case = findings.opened(name, case_id)
            place = _fullest(case)
            image = case.image[:, place : place + 1]
            maps = grad_cam(case.segmenter, image, case.config, case.device)
            heats = (Pictured(f"{name}: M{3 - i}", image[0, 0], heat) for i, heat in enumerate(maps.values()))
            panels += ([] if panels else [Pictured(case_id[:14], image[0, 0])]) + list(heats)
        rows.append(panels)
    return figures.pictured(folder / "fig09-grad-cam.png", rows)


def draw_calibration(findings: Findings, folder: Path) -> Path | None:
    """Confidence against the share of annotators: the MCM of the rows that have one, and X_S of all."""
    series = calibration_series(findings)
    if not any(series.values()):
        return None
    path = folder / "calibration.png"
    with figures.drawing(path, 4.6, 4.2, len(CONFIDENCES)) as axes:
        for ax, (kind, found) in zip(axes[0], series.items(), strict=True):
            ax.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
            figures.lines(ax, found, f"{NAMES[kind]} against the annotators", "mean confidence", "share of annotators")
    return path


def calibration_series(findings: Findings) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return by confidence and row (mean confidence, share of annotators) of every bin that holds pixels."""
    series: dict[str, dict[str, list[tuple[float, float]]]] = {kind: {} for kind in CONFIDENCES}
    for result in findings.trained([row.name for row in findings.rows()]):
        for kind in CONFIDENCES:
            bins = pooled_bins(result, kind)
            if bins is not None:
                (confidence, share), known = bins.means(), bins.count > 0
                points = zip(confidence[known].tolist(), share[known].tolist(), strict=True)
                series[kind][result.row] = list(points)
    return series

"""What a reproduction leaves: `tables/*.csv` and `*.md`, `figures/*.png`, `splits.json`, and `report.md` with all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from overread.architectures import Published
from overread.jsonio import write_bytes
from overread.metrics.summary import Summary
from overread.records import AugmentConfig
from overread.reproduction.cost import published_setting
from overread.reproduction.results import Findings, RowResult
from overread.review import figures
from overread.review.tables import Grid, write_tables
from overread.review.words import NOTHING, between
from overread.training.notes import lone_annotations

NOT_TRAINED = "not trained here"
SPLITS = "splits.json"
"""Case ids of the test split (`locked`) and the folds: who imports masks must predict the former."""


def write_findings(findings: Findings, out: Path) -> Path:
    """Write everything that `findings` holds; return the path of the report.

    A title says what was measured and changes with it: numbered tables of an earlier call that have no successor go.
    """
    exhibits = [*findings.paper.exhibits(findings), curve_table(findings), cost_table(findings)]
    pictures = [*findings.paper.pictures(findings, out / "figures"), *draw_curves(findings, out / "figures")]
    title = f"# {findings.paper.title}: {findings.dataset}, size {findings.size}"
    parts = [title, protocol_text(findings), *lone_text(findings)]
    parts += write_tables(exhibits, out / "tables")
    parts += [f"![{path.stem}](figures/{path.name})" for path in pictures]
    findings.prepared.splits.save(out / SPLITS)
    report = out / "report.md"
    write_bytes(report, "\n\n".join(parts).encode() + b"\n")
    return report


def protocol_text(findings: Findings) -> str:
    """Say how the rows were trained and tested, and where that differs from print."""
    protocol = findings.protocol
    images = "slices" if protocol.spatial_dims == 2 else "patches of volumes"
    length = f"{protocol.steps:,} steps" if protocol.steps else f"{protocol.passes} passes over the training slices"
    rate = f"{protocol.optimiser.name} at {protocol.optimiser.learning_rate:g}, {protocol.optimiser.schedule}"
    split = (
        f"Test split {protocol.test_fraction:.0%} of the groups (patients); one fold of {protocol.folds} of the rest "
        "draws the validation curve, the others train. "
    )
    if protocol.cross_validated:
        split = (
            f"{protocol.folds} folds of groups (patients): each tests, and draws the curve of, the training on the "
            "others, and chooses nothing. Intervals resample the cases of all folds; that another training of the same "
            "network reads otherwise is not in them. "
        )
    prepared = findings.prepared
    tested = [c for fold in prepared.splits.folds for c in fold] if protocol.cross_validated else prepared.splits.locked
    patients = {prepared.case(case).group for case in tested}
    split += f"Tested: {len(tested)} cases of {len(patients)} groups (patients). "
    options = "".join(f", {name} {value} where a network has it" for name, value in protocol.options.items())
    return (
        f"Every row: {protocol.max_side} pixels, {protocol.width:g} of the published width{options}, {length} of "
        f"{protocol.batch_size} {images}, {rate}, {augment_text(protocol.augment)}; last weights. "
        f"{split}{findings.paper.about}"
    )


def lone_text(findings: Findings) -> tuple[str, ...]:
    """Return what the trained rows made of cases with a single annotation, as far as there are such."""
    configs = [networks[0][0] for networks in findings.networks.values() if networks]
    line = lone_annotations(configs, findings.prepared)
    return (f"{line[0].upper()}{line[1:]}.",) if line else ()


def augment_text(augment: AugmentConfig) -> str:
    """Say how training images are changed.

    >>> augment_text(AugmentConfig(scale=0.0, intensity=0.0))
    'augmented by flips, rotation up to 15 degrees'
    """
    changes = {
        "quarter turns with a flip (or else what follows)": augment.turn_and_flip,
        "flips": augment.flip,
        f"rotation up to {augment.rotate_degrees:g} degrees": augment.rotate_degrees,
        f"scale within {augment.scale:.0%}": augment.scale,
        f"intensity within {augment.intensity:.0%}": augment.intensity,
    }
    named = ", ".join(name for name, amount in changes.items() if amount)
    return f"augmented by {named}" if named else "no augmentation"


def curve_table(findings: Findings) -> Grid:
    """Return the training curves of all trained rows."""
    rows = tuple(
        (result.row, str(report.step), *(f"{report.metrics[name]:.4f}" for name in ("train_loss", "validation_dice")))
        for result in findings.trained([row.name for row in findings.rows()])
        for report in result.epochs
    )
    return Grid("Training curves", ("model", "step", "train loss", "validation Dice"), rows)


def draw_curves(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Draw the training curves of all trained rows."""
    trained = [result for result in findings.trained([row.name for row in findings.rows()]) if result.epochs]
    if not trained:
        return ()
    path = folder / "training-curves.png"
    with figures.drawing(path, 5, 3.6, 2) as axes:
        for ax, metric in zip(axes[0], ("validation_dice", "train_loss"), strict=True):
            series = {r.row: [(float(e.step), e.metrics[metric]) for e in r.epochs] for r in trained}
            figures.lines(ax, series, metric.replace("_", " "), "optimiser step", metric.replace("_", " "))
    return (path,)


def cost_table(findings: Findings) -> Grid:
    """Return training speed and memory of every model that could take two steps."""
    rows = []
    for row in findings.rows():
        cost, result = findings.costs.get(row.name), findings.results.get(row.name)
        trained = NOT_TRAINED if result is None else "masks imported" if not result.epochs else length_text(result)
        if cost is None or cost.failure:
            state = trained if cost is None else f"{trained}; two steps fail: {cost.failure}"
            rows.append((row.name, *[NOTHING] * 5, state))
            continue
        rows.append(
            (
                row.name,
                f"{cost.published:,}",
                _input(published_setting(row, findings.paper.published_classes)),
                f"{cost.parameters:,}",
                f"{cost.seconds_per_step:.3f}",
                f"{cost.peak_bytes / 2**20:.0f}",
                trained,
            )
        )
    columns = (
        "model",
        "parameters, published width",
        "of images and classes",
        "parameters, here",
        "s per step",
        "peak MiB of a step",
        "trained",
    )
    device = next((cost.device for cost in findings.costs.values()), "")
    return Grid(f"Speed and memory ({device})", columns, tuple(rows))


def _input(setting: Published) -> str:
    """Return what a number of parameters depends on beside the network: channels, and classes with background."""
    channels = f"{setting.in_channels} channel{'s' if setting.in_channels > 1 else ''}"
    return f"{channels}, {setting.classes} classes, {len(setting.size)}-D"


def length_text(result: RowResult) -> str:
    """Say how long a row was trained."""
    threads = "" if result.threads == 1 else f" on {result.threads} threads"
    return f"{result.steps:,} steps in {result.seconds:.0f} s{threads}"


def percent(summary: Summary) -> str:
    """Return mean ± sd of a share in per cent, as the papers print it, with n."""
    if summary.mean is None:
        return NOTHING
    spread = "" if summary.sd is None else f"±{100 * summary.sd:.2f}"
    return f"{100 * summary.mean:.2f}{spread} (n={summary.n})"


def over_folds(values: Sequence[float], ddof: int = 1) -> str:
    """Return mean ± sd over folds of a share in per cent; `ddof` 0 is the sd of these folds, 1 that of all such."""
    if not values:
        return NOTHING
    spread = f"±{100 * float(np.std(values, ddof=ddof)):.2f}" if len(values) > ddof else ""
    return f"{100 * float(np.mean(values)):.2f}{spread} ({len(values)} folds)"


def difference(summary: Summary) -> str:
    """Return a paired difference in points with its interval and n."""
    if summary.mean is None or summary.low is None or summary.high is None:
        return NOTHING
    return f"{100 * summary.mean:+.2f} ({between(100 * summary.low, 100 * summary.high, '+.2f')}, n={summary.n})"

"""`overread evaluate` and `overread report`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from overread.cli import _options
from overread.cli._session import show_log, working
from overread.errors import UserError
from overread.records import EmptyAnnotation, PrepareSettings

PREDICTIONS_HELP = "Folder of masks, and of ids of single objects in its instances/, to be measured against --data."
METRICS_HELP = "Comma-separated; also specificity, accuracy, and of surfaces nsd and hd95."
TOLERANCE_HELP = "Of nsd, in the unit of the data: mm where the spacing of all cases is known, else pixels or voxels."


@click.command()
@click.option("--out", type=_options.FOLDER, help="Run folder: read its locked split with its ensemble.")
@click.option("--predictions", type=_options.FOLDER, help=PREDICTIONS_HELP)
@click.option("--data", type=_options.FOLDER, help="Labelled data set that --predictions belong to.")
@_options.reference
@_options.empty_annotation
@click.option("--allow-missing", is_flag=True, help="Measure --predictions although labelled cases have no mask.")
@click.option("--metrics", default="dice,jaccard,sensitivity,precision", show_default=True, help=METRICS_HELP)
@click.option("--tolerance", type=click.FloatRange(0), default=1.0, show_default=True, help=TOLERANCE_HELP)
@click.option("--failure-dice", type=_options.DICE, help=f"With --out: {_options.FAILURE_HELP} [default: 0.7].")
@_options.as_json
@_options.cluster
def evaluate(
    out: Path | None,
    predictions: Path | None,
    data: Path | None,
    reference: str | None,
    empty_annotation: EmptyAnnotation,
    allow_missing: bool,
    metrics: str,
    tolerance: float,
    failure_dice: float | None,
    as_json: bool,
    address: str | None,
    cpus: int | None,
) -> None:
    """Measure an ensemble on the locked split of its run, or any masks against the labels of a data set.

    The locked split is read after the winners are frozen; summary.json and report.html appear in the run folder.
    Where several annotated the cases, the masks are also held against each of them, their majority, their STAPLE
    consensus and the spread of their opinions: of a run in predictions/annotators.csv and summary.json.
    """
    from overread.cli._tables import evaluation_grids, show, summary_grids

    if (out is None) == (predictions is None) or (predictions is None) != (data is None):
        raise UserError("give either --out RUN, or --predictions MASKS with --data LABELLED: found another combination")
    if failure_dice is not None and out is None:
        raise UserError("--failure-dice needs --out, but that was not given: add it")
    names = tuple(metrics.split(","))
    if predictions is not None and data is not None:
        from overread.pipeline.prediction import evaluate_masks

        show_log()
        truth = PrepareSettings(reference=reference, empty_annotation=empty_annotation)
        table = evaluate_masks(predictions, data, names, truth=truth, allow_missing=allow_missing, tolerance=tolerance)
        return click.echo(json.dumps(table.to_json())) if as_json else show(evaluation_grids(table))
    from overread.confidence.failure_detection import FAILURE_DICE
    from overread.ensemble.evaluate import Measures
    from overread.pipeline.run import evaluate_run

    measures = Measures(metrics=names, tolerance=tolerance)
    with working(address, cpus, out=out) as map_cases:
        summary = evaluate_run(Path(str(out)), map_cases, failure_dice=failure_dice or FAILURE_DICE, measures=measures)
    return click.echo(json.dumps(summary.to_json())) if as_json else show(summary_grids(summary))


@click.command()
@_options.out
@click.option("--volumes", type=click.IntRange(0), default=50, show_default=True, help="Cases shown in three planes.")
@click.option(
    "--megabytes", type=click.FloatRange(0), default=40.0, show_default=True, help="Picture data embedded, at most."
)
@click.option("--failure-dice", type=_options.DICE, help=f"{_options.FAILURE_HELP} [default: as evaluated, else 0.7].")
def report(out: Path, volumes: int, megabytes: float, failure_dice: float | None) -> None:
    """Write report.html of a run or a prediction folder again, from its results.

    The worst cases are embedded with their volume, the others with one slice, until the megabytes are used.
    """
    from overread.pipeline.prediction import rewrite_report
    from overread.review.page_data import PictureLimits

    limits = PictureLimits(volumes=volumes, megabytes=megabytes)
    click.echo(f"report: {rewrite_report(out.resolve(), limits, failure_dice)}")

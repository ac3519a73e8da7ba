"""Calibrating a package: what its scores are worth, measured on cases that trained and chose nothing of it.

Between the frozen winners and the locked split. Readings of the validation fold fit the predicted Dice, readings of the
calibration groups give the lower bounds; both stay in `calibration/` of the run, the result in `confidence.json` of the
package. Once the locked split was read, to its end or not, the calibration is frozen, as the winners are: another
coverage, or none, would be chosen with the measured one in view.
"""

from __future__ import annotations

import logging
from pathlib import Path

from overread.confidence.conformal import COVERAGE, least_groups
from overread.confidence.judgement import MEAN, Judgement, fit_judgement, refit_bounds
from overread.data.prepare import MapCases
from overread.errors import UserError
from overread.pipeline.folders import RunFolder, restore_folder
from overread.pipeline.reading import known_cases
from overread.pipeline.stages import Run, read_labelled
from overread.records import Manifest, Winners

log = logging.getLogger(__name__)


def calibrate(run: Run, map_cases: MapCases, *, coverage: float = COVERAGE, gpus: float = 0.0) -> Judgement | None:
    """Write `confidence.json` of the run's package and return it.

    None, with a warning, for members that validated on different folds (no case trained none of them) and for a data
    set without calibration cases. Retrained winners have no validation cases: they keep the regressors of the run
    whose winners they are, and the bounds are fitted anew.

    After the locked split was read nothing is fitted: the calibration that read it is returned (`check_unchanged`).
    """
    from overread.ensemble.package import CONFIDENCE, load_judgement

    manifest = Manifest.load(run.folder.ensemble / "manifest.json")
    check_unchanged(run.folder, coverage)
    if run.folder.was_looked_at:
        frozen = load_judgement(run.folder.ensemble, manifest)
        if frozen is None:
            log.warning("the locked split was read without predicted Dice and lower bounds: the package stays so")
        return frozen
    (run.folder.ensemble / CONFIDENCE).unlink(missing_ok=True)
    folds = set(Winners.load(run.folder.winners).folds)
    splits, out = run.prepared.splits, run.folder.calibration
    if run.record.retrained_from is not None and splits.calibration:
        earlier = RunFolder(Path(run.record.retrained_from)).ensemble
        judgement = load_judgement(earlier, Manifest.load(earlier / "manifest.json"))
        if judgement is None:
            log.warning("predicted Dice and lower bounds need a calibrated package in %s: there are none", earlier)
            return None
        if run.record.retrained_winners not in (None, judgement.winners):
            log.warning(
                "predicted Dice and lower bounds need the winners that were retrained, but %s has others", earlier
            )
            return None
        known = known_cases(
            read_labelled(run, splits.calibration, out / "calibration", map_cases, gpus=gpus, masks=False)
        )
        return _saved(run, refit_bounds(judgement, known, winners=manifest.winners, coverage=coverage))
    if len(folds) != 1 or not splits.calibration:
        log.warning(
            "predicted Dice and lower bounds need members of one fold and calibration cases, but there are %d folds "
            "and %d cases: the package has none",
            len(folds),
            len(splits.calibration),
        )
        return None
    validation = splits.fold(folds.pop()).validation
    judgement = fit_judgement(
        known_cases(read_labelled(run, validation, out / "validation", map_cases, gpus=gpus, masks=False)),
        known_cases(read_labelled(run, splits.calibration, out / "calibration", map_cases, gpus=gpus, masks=False)),
        manifest.label_names,
        winners=manifest.winners,
        coverage=coverage,
    )
    return _saved(run, judgement)


def calibrate_if_possible(
    run: Run, map_cases: MapCases, *, coverage: float = COVERAGE, gpus: float = 0.0
) -> Judgement | None:
    """Calibrate, or say why not and return None: hours of training must not end for want of a bound.

    What is wrong with a case is told in a line, an error of the program with its traceback.
    """
    why = "the package could not be calibrated and has no predicted Dice and no lower bounds, the run goes on: %s"
    try:
        return calibrate(run, map_cases, coverage=coverage, gpus=gpus)
    except UserError as error:
        log.warning(why, error)
    except Exception as error:
        log.warning(why, f"{type(error).__name__}: {error}", exc_info=True)
    return None


def check_unchanged(folder: RunFolder, coverage: float | None) -> None:
    """Raise `UserError` for another coverage (None: no calibration) than that of a package that read the locked split.

    A package that read it without a calibration stays without one, which is no error.
    """
    from overread.ensemble.package import load_judgement

    if not folder.was_looked_at:
        return
    restore_folder(folder.ensemble)
    if not (folder.ensemble / "manifest.json").is_file():
        return
    frozen = load_judgement(folder.ensemble, Manifest.load(folder.ensemble / "manifest.json"))
    if frozen is None or frozen.coverage == coverage:
        return
    asked, without = (
        ("no calibration", " without --no-calibration") if coverage is None else (f"coverage {coverage:g}", "")
    )
    raise UserError(
        f"the calibration of {folder.root} must stay at coverage {frozen.coverage:g}, since the locked split was read "
        f"with it, but {asked} was asked for: give --coverage {frozen.coverage:g}{without}, or another --out"
    )


def _saved(run: Run, judgement: Judgement) -> Judgement:
    """Write a judgement and say where its bound lacks groups."""
    from overread.ensemble.package import CONFIDENCE

    judgement.save(run.folder.ensemble / CONFIDENCE)
    bound = judgement.targets[MEAN].bound
    if bound.quantile is None:
        log.warning(
            "a lower bound at coverage %g needs %d calibration groups with a predicted Dice, but there are %d: "
            "dice_lower_bound stays empty",
            judgement.coverage,
            least_groups(judgement.coverage),
            bound.groups,
        )
    return judgement


def judgement_lines(judgement: Judgement | None) -> list[str]:
    """Return what a calibration gave, one line for the class mean and each class."""
    if judgement is None:
        return ["calibration: none"]
    lines = []
    for target, judge in judgement.targets.items():
        fit, bound = judge.regressor, judge.bound
        error = f"error {fit.error:.3f} (of the mean Dice {fit.error_of_mean:.3f})" if fit else "none"
        below = "none" if bound.quantile is None else f"predicted Dice - {bound.quantile:.3f}"
        lines.append(
            f"calibration: {target}: predicted Dice {error}; lower bound at {bound.coverage:g}: {below}, "
            f"{bound.groups} groups"
        )
    return lines

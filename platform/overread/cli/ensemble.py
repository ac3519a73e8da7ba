"""`overread ensemble`."""

from __future__ import annotations

from pathlib import Path

import click

from overread.cli import _options
from overread.cli._session import working
from overread.errors import UserError
from overread.records import FusionName

OUT_OF_FOLD_HELP = (
    "With greedy: train the candidates for the other folds too, select on the cases of all folds. Networks whose "
    "attention maps are by a pretrained teacher are left out: it has seen those cases."
)


@click.command()
@_options.out
@_options.top
@_options.coverage
@click.option("--tagged", is_flag=True, help="Take the trials tagged winner=true in MLflow instead of the best ones.")
@click.option(
    "--select",
    type=click.Choice(["rule", "greedy", "greedy-per-class"]),
    default="rule",
    show_default=True,
    help="By validation Dice of each alone, or greedily by that of the ensemble, or by that of each class.",
)
@click.option("--out-of-fold", is_flag=True, help=OUT_OF_FOLD_HELP)
@click.option("--cost", type=click.Choice(["ms", "parameters"]), default="ms", show_default=True, help="Of --budget.")
@click.option("--budget", type=click.FloatRange(0, min_open=True), help="With greedy: most cost per case.")
@click.option(
    "--fusion",
    type=click.Choice(["soft", "majority", "staple"]),
    default="soft",
    show_default=True,
    help="How the members' readings become one mask: mean probability, majority of the masks, or STAPLE.",
)
@click.option("--members", help="Take these: trial or trial:variant, separated by commas.")
@click.option("--no-calibration", is_flag=True, help="Leave predicted_dice and dice_lower_bound out: reads no case.")
@_options.member
@_options.cluster
def ensemble(
    out: Path,
    top: int,
    coverage: float,
    tagged: bool,
    select: str,
    out_of_fold: bool,
    cost: str,
    budget: float | None,
    fusion: FusionName,
    members: str | None,
    no_calibration: bool,
    folders: tuple[str, ...],
    address: str | None,
    cpus: int | None,
) -> None:
    """Freeze the winners of the search in --out and assemble the ensemble package in OUT/ensemble.

    Members are chosen by validation Dice only. The package then reads the validation fold, which its predicted Dice is
    fitted on, and the calibration groups, which alone give the lower bounds. `overread evaluate --out OUT` reads the
    locked split with it; from then on winners and calibration stay as they are. What each member brings to the soft
    vote on the validation cases, and how alike the members' errors are, stands in OUT/members.csv.

    --member adds readings that exist already: masks or probabilities of nnU-Net, MONAI, MIST, TotalSegmentator or a
    person, at any spacing and orientation, for the validation, calibration and locked cases by their names. A case
    without one is flagged. They must not have been trained on these cases.
    """
    from overread.cli._tables import show
    from overread.pipeline import calibrating, choosing, selecting, selection_report, stages
    from overread.pipeline.folders import RunFolder
    from overread.pipeline.winners import read_chosen

    greedy, per_class = select != "rule", select == "greedy-per-class"
    _check_options(select, tagged, members, budget, out_of_fold, fusion)
    folder = RunFolder(out.resolve())
    calibrating.check_unchanged(folder, None if no_calibration else coverage)
    chosen = choosing.tagged(folder) if tagged else read_chosen(members) if members else None
    given = _options.named_folders("--member", folders)
    with working(address, cpus, out=out, member=_options.first_relative(given)) as map_cases:
        run, gpus = stages.open_run(folder, map_cases), stages.search_gpus(folder)
        stages.check_searched(run)
        imported = stages.import_folders(run, given, map_cases) if given else ()
        votes = found = None
        if greedy:
            found = selecting.select(
                run,
                map_cases,
                most=top,
                cost=cost,
                budget=budget,
                per_class=per_class,
                out_of_fold=out_of_fold,
                gpus=gpus,
                imported=imported,
            )
            show(selection_report.selection_grids(found))
            votes, imported = selection_report.votes_of(found), selection_report.imported_of(found, imported)
        winners, _ = stages.assemble(
            run,
            top=top,
            chosen=chosen,
            votes=votes,
            fusion=fusion,
            imported=imported,
            folds=len(found.folds) if found else 1,
        )
        if found is not None:
            found.write(folder)
        described = None
        if votes is None and (imported or not no_calibration):
            described = selecting.describe(run, winners, map_cases, gpus=gpus)
        if described is not None:
            show(selection_report.selection_grids(described)[1:])
        judged = None
        if not no_calibration:
            judged = calibrating.calibrate(run, map_cases, coverage=coverage, gpus=gpus)
    click.echo(f"rule: {winners.rule}")
    for member in winners.members:
        click.echo(f"member: {member.name}, {member.variant}, validation Dice {member.validation_dice:.4f}")
    for guest in winners.imported:
        dice = "none" if guest.validation_dice is None else f"{guest.validation_dice:.4f}"
        click.echo(f"member: {guest.name}, imported, {guest.cases} cases, validation Dice {dice}")
    for line in calibrating.judgement_lines(judged):
        click.echo(line)
    click.echo(f"package: {folder.ensemble}")


def _check_options(
    select: str, tagged: bool, members: str | None, budget: float | None, out_of_fold: bool, fusion: FusionName
) -> None:
    """Raise `UserError` for options that exclude or need each other."""
    if tagged and members:
        raise UserError("--tagged and --members exclude each other, but both were given: give one")
    greedy = select != "rule"
    if greedy and (tagged or members):
        raise UserError(f"--select {select} excludes --tagged and --members, but both were given: give one")
    if not greedy and (budget is not None or out_of_fold):
        option = "--out-of-fold" if out_of_fold else "--budget"
        raise UserError(f"{option} needs --select greedy, but that was not given: add it")
    if greedy and fusion != "soft":
        raise UserError(
            f"--select {select} needs --fusion soft, whose votes it selects, but got {fusion}: leave one out"
        )

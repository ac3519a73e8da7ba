"""Choosing the winners and freezing them: after this stage, and only then, the locked split may be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from overread.ensemble.selection import select_baseline, select_winners, selection_rule
from overread.errors import UserError
from overread.pipeline.folders import RunFolder
from overread.pipeline.importing import check_all_read, check_names, readings_of
from overread.pipeline.selection_report import brought
from overread.records import MAIN, FusionName, ImportedMember, Prepared, TrialOutcome, Vote, Winners

Outcomes = Mapping[str, tuple[TrialOutcome, Path]]


def freeze_winners(
    folder: RunFolder,
    prepared: Prepared,
    outcomes: Outcomes,
    *,
    top: int,
    chosen: tuple[tuple[str, str], ...] | None = None,
    votes: Mapping[tuple[str, str], Vote] | None = None,
    fusion: FusionName = "soft",
    imported: tuple[ImportedMember, ...] = (),
    folds: int = 1,
) -> Winners:
    """Select the members by their validation Dice (or take `chosen`, or `votes`) and write `winners.json`.

    Imported members join them; in a folder without a search they are the ensemble. `folds` is the number of those whose
    cases gave the votes.

    Winners that differ from frozen ones are refused once these began to read the locked split: another choice would be
    made with what was read in view. So are readings alone that leave out a case which the package will have to read.
    """
    alone = bool(imported) and not outcomes
    if alone and chosen:
        raise UserError(
            f"members can be named where there is a search, but {folder.root} has none: leave --members out, since all "
            "of --member join"
        )
    if alone:
        splits = prepared.splits
        wanted = (*splits.fold(0).validation, *splits.calibration, *splits.locked)
        check_all_read(readings_of(imported, prepared), wanted)
    members = () if alone else select_winners(outcomes, k=top, chosen=chosen, votes=votes, root=folder.root)
    rule = "imported only" if alone else selection_rule(top, chosen=chosen, votes=votes, folds=folds)
    winners = Winners(
        rule=rule + _joined(imported),
        members=members,
        prepared=prepared.content,
        baseline=select_baseline(outcomes, root=folder.root),
        fusion=fusion,
        imported=imported,
        folds=tuple(sorted({member.config.fold for member in members})) or (0,),
    )
    return freeze(folder, winners)


def freeze(folder: RunFolder, winners: Winners) -> Winners:
    """Write `winners.json`; what `selection.json` and `members.csv` say of other members or votes goes.

    Raises:
        UserError: A name is there twice, or other winners began to read the locked split.

    """
    check_names((member.name for member in winners.imported), (member.name for member in winners.members), "run")
    if folder.was_looked_at:
        if Winners.load(folder.winners).fingerprint() == winners.fingerprint():
            return winners
        raise UserError(
            f"winners of {folder.root} must stay as frozen, since the locked split was read with them, "
            f"but other ones were chosen: give another --out for the new ensemble, or go on with the frozen ones by "
            f"`overread evaluate --out {folder.root}`"
        )
    winners.save(folder.winners)
    if not brought(folder, winners):
        folder.selection.unlink(missing_ok=True)
        folder.members.unlink(missing_ok=True)
    return winners


def _joined(imported: tuple[ImportedMember, ...]) -> str:
    return f"; joined by {', '.join(member.name for member in imported)}" if imported else ""


def read_chosen(text: str) -> tuple[tuple[str, str], ...]:
    """Parse members named by hand: `trial_id` or `trial_id:variant`, separated by commas."""
    chosen = []
    for part in filter(None, (item.strip() for item in text.split(","))):
        trial_id, _, variant = part.partition(":")
        chosen.append((trial_id, variant or MAIN))
    if not chosen:
        raise UserError(f"members must be named as trial or trial:variant, but got {json.dumps(text)}")
    return tuple(chosen)

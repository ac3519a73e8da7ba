"""The leaderboard of a run, and the winners that a rule or a person names there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from overread.data.prepare import find_prepared
from overread.ensemble.selection import Choice, Outcomes, select_winners
from overread.errors import UserError
from overread.metrics.optimism import expected_by_rank
from overread.pipeline.folders import RunFolder
from overread.pipeline.winners import read_chosen
from overread.search.leaderboard import read_outcomes
from overread.tracking.runs import Tracker
from overread.tracking.winners import LeaderboardRow, tag_winners, tagged_winners
from overread.tracking.winners import leaderboard as tracked_leaderboard


def leaderboard(folder: RunFolder, *, top: int, tag: bool = False, members: str | None = None) -> list[LeaderboardRow]:
    """Return every variant of every trial, best first; tag `members`, or with `tag` those that the rule selects.

    Beside the validation Dice stands what is left of it without the luck of the choice (`metrics.optimism`).
    """
    tracker = open_tracker(folder)
    if members:
        tag_winners(tracker, read_chosen(members))
    elif tag:
        selected = select_winners(read_outcomes(folder.search), k=top)
        tag_winners(tracker, [(member.trial_id, member.variant) for member in selected])
    rows = tracked_leaderboard(tracker)
    expected = expected_dice(read_outcomes(folder.search), _groups(folder))
    return [replace(row, expected_dice=expected.get((row.trial_id, row.variant))) for row in rows]


def expected_dice(outcomes: Outcomes, groups: Mapping[str, str]) -> dict[Choice, float]:
    """Return the expected Dice of every variant measured on the cases of the best one, by (trial, variant).

    `groups` by case; cases without one are their own. Nothing where there are too few groups to say.
    """
    ended = [(o.trial_id, s) for o, _ in outcomes.values() if o.state != "failed" for s in o.variants if s.case_dice]
    ranked = sorted(ended, key=lambda item: (-item[1].dice, item[0], item[1].variant))
    cases = list(ranked[0][1].case_dice) if ranked else []
    same = [(trial, score) for trial, score in ranked if score.case_dice.keys() == set(cases)]
    values = np.array([[score.case_dice[case] for _, score in same] for case in cases])
    found = expected_by_rank(values, [groups.get(case, case) for case in cases]) if same else None
    if found is None:
        return {}
    return {(trial, score.variant): float(dice) for (trial, score), dice in zip(same, found, strict=True)}


def _groups(folder: RunFolder) -> dict[str, str]:
    """Return the group of every case, or nothing when the prepared data are no longer in the cache."""
    record = folder.load()
    try:
        prepared = find_prepared(Path(record.data), record.prepare, Path(record.cache))
    except UserError:
        return {}
    return {} if prepared is None else {case.id: case.group for case in prepared.cases}


def tagged(folder: RunFolder) -> tuple[tuple[str, str], ...]:
    """Return the (trial, variant) tagged in MLflow; none raises `UserError`."""
    chosen = tuple(tagged_winners(open_tracker(folder)))
    if not chosen:
        raise UserError(
            "--tagged needs trials with the tag winner=true in MLflow, but there are none: "
            "tag some in the UI or with `overread winners --tag`"
        )
    return chosen


def open_tracker(folder: RunFolder) -> Tracker:
    """Return the MLflow tree of a run."""
    from overread.tracking.store import resolve_uri

    record = folder.load()
    return Tracker(resolve_uri(record.tracking_uri, folder.root), record.experiment, record.search_id)

"""The leaderboard of a run, and the winners that a rule or a person names there."""

from __future__ import annotations

from overread.ensemble.selection import select_winners
from overread.errors import UserError
from overread.pipeline.folders import RunFolder
from overread.pipeline.winners import read_chosen
from overread.search.leaderboard import read_outcomes
from overread.tracking.runs import Tracker
from overread.tracking.winners import LeaderboardRow, tag_winners, tagged_winners
from overread.tracking.winners import leaderboard as tracked_leaderboard


def leaderboard(folder: RunFolder, *, top: int, tag: bool = False, members: str | None = None) -> list[LeaderboardRow]:
    """Return every variant of every trial, best first; tag `members`, or with `tag` those that the rule selects."""
    tracker = open_tracker(folder)
    if members:
        tag_winners(tracker, read_chosen(members))
    elif tag:
        selected = select_winners(read_outcomes(folder.search), k=top)
        tag_winners(tracker, [(member.trial_id, member.variant) for member in selected])
    return tracked_leaderboard(tracker)


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

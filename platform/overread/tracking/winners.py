"""The leaderboard of a search as MLflow has it, and which trials people call winners there.

A winner is a trial run with the tag `winner`: `true` (the main variant) or names of variants (`main, level_2`). Tags
typed by hand in the MLflow UI count the same as those of `overread winners`. The members of the last ensemble carry the
tag `overread_member`, so that an ensemble chosen by rule leaves people's tags alone. Trials that joined the ensemble of
a search by gain carry `overread_joined`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from overread.errors import UserError, unknown_name
from overread.records import MAIN
from overread.tracking.fields import VARIANT_CASES, VARIANT_DICE, VARIANT_SECONDS, safe
from overread.tracking.runs import TRIAL, Tracker

WINNER, MEMBER, JOINED = "winner", "overread_member", "overread_joined"
YES, NO = frozenset({"true", "yes", "1"}), frozenset({"", "false", "no", "0"})


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One variant of one trial. Validation figures only: winners are picked here, so nothing locked is shown."""

    trial_id: str
    architecture: str
    variant: str
    state: str
    """`finished`, `stopped`, `failed`, or `running`."""
    validation_dice: float | None
    """None for a trial that has no result yet."""
    parameters: int | None
    seconds_per_case: float | None
    winner: bool
    run_id: str
    cases: int | None = None
    """Validation cases; None for a trial without a result."""
    member: bool = False
    """Whether it is in the last ensemble."""
    expected_dice: float | None = None
    """What a choice of this rank can be expected to reach on new cases (`metrics.optimism`); None: not known."""

    gain: float | None = None
    """What it added to the Dice of the search's ensemble when it ended; None: not measured."""
    joined: bool = False
    """Whether it joined that ensemble."""


def leaderboard(tracker: Tracker) -> list[LeaderboardRow]:
    """Return every variant of every trial of the search, best validation Dice first, those without one last."""
    rows = [row for run in tracker.trial_runs() for row in _rows(run.info.run_id, run.data.tags, run.data.metrics)]
    return sorted(rows, key=lambda r: (r.validation_dice is None, -(r.validation_dice or 0.0), r.trial_id, r.variant))


def tag_winners(tracker: Tracker, chosen: Iterable[tuple[str, str]]) -> None:
    """Make exactly these (trial id, variant) the winners; other trials of the search lose the tag.

    An unknown trial or variant raises `UserError` before anything is changed.
    """
    _tag(tracker, WINNER, chosen)


def tag_members(tracker: Tracker, chosen: Iterable[tuple[str, str]]) -> None:
    """Mark exactly these (trial id, variant) as members of the ensemble; what people call winners stays."""
    _tag(tracker, MEMBER, chosen)


def tag_joined(tracker: Tracker, trials: Iterable[str]) -> None:
    """Mark exactly these trials as members of the ensemble that the search built."""
    _tag(tracker, JOINED, [(trial_id, MAIN) for trial_id in trials])


def _tag(tracker: Tracker, tag: str, chosen: Iterable[tuple[str, str]]) -> None:
    runs = {run.data.tags[TRIAL]: run for run in tracker.trial_runs()}
    wanted: dict[str, list[str]] = {}
    for trial_id, variant in chosen:
        if trial_id not in runs:
            raise unknown_name("trial", trial_id, runs)
        _check_variant(trial_id, variant, runs[trial_id].data.metrics)
        wanted.setdefault(trial_id, []).append(variant)
    for trial_id, run in runs.items():
        value = _value(wanted.get(trial_id, []))
        if value:
            tracker.client.set_tag(run.info.run_id, tag, value)
        elif tag in run.data.tags:
            tracker.client.delete_tag(run.info.run_id, tag)


def tagged_winners(tracker: Tracker) -> list[tuple[str, str]]:
    """Return the (trial id, variant) tagged as winners, by hand or by program, best first."""
    for run in tracker.trial_runs():
        for variant in winner_variants(run.data.tags.get(WINNER, "")):
            _check_variant(run.data.tags[TRIAL], variant, run.data.metrics)
    return [(row.trial_id, row.variant) for row in leaderboard(tracker) if row.winner]


def winner_variants(tag: str) -> tuple[str, ...]:
    """Return the variants that the value of a `winner` tag names.

    >>> winner_variants("True"), winner_variants("main, level_2"), winner_variants("false")
    (('main',), ('main', 'level_2'), ())
    """
    words = [word.strip() for word in tag.split(",")]
    named = [MAIN if word.lower() in YES else word for word in words if word.lower() not in NO]
    return tuple(dict.fromkeys(named))


def _rows(run_id: str, tags: Mapping[str, str], metrics: Mapping[str, float]) -> list[LeaderboardRow]:
    winners = winner_variants(tags.get(WINNER, ""))
    members = winner_variants(tags.get(MEMBER, ""))
    return [
        LeaderboardRow(
            trial_id=tags[TRIAL],
            architecture=tags.get("architecture", ""),
            variant=variant,
            state=tags.get("state", "running"),
            validation_dice=metrics.get(f"{VARIANT_DICE}{variant}"),
            parameters=_whole(metrics.get("parameters")),
            seconds_per_case=metrics.get(f"{VARIANT_SECONDS}{variant}"),
            winner=variant in winners,
            run_id=run_id,
            cases=_whole(metrics.get(f"{VARIANT_CASES}{variant}")),
            member=variant in members,
            gain=metrics.get("gain") if variant == MAIN else None,
            joined=variant in winner_variants(tags.get(JOINED, "")),
        )
        for variant in _variants(metrics) or [MAIN]
    ]


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _variants(metrics: Mapping[str, float]) -> list[str]:
    return [name.removeprefix(VARIANT_DICE) for name in metrics if name.startswith(VARIANT_DICE)]


def _check_variant(trial_id: str, variant: str, metrics: Mapping[str, float]) -> None:
    known = _variants(metrics)
    if not known:
        raise UserError(f"winner '{trial_id}' must have a result, but it has none: wait for its end or choose another")
    if safe(variant) not in known:
        raise UserError(
            f"winner '{trial_id}' has no variant '{variant}': use true or one of {', '.join(sorted(known))}"
        )


def _value(variants: Sequence[str]) -> str:
    return "true" if list(variants) == [MAIN] else ", ".join(variants)

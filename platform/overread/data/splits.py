"""Locked, calibration and fold splits by group: no patient is ever on two sides of a split."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from overread.errors import UserError
from overread.records import PrepareSettings, Splits


def make_splits(
    groups: Mapping[str, str], settings: PrepareSettings, stratify: Mapping[str, str] | None = None
) -> Splits:
    """Split case ids by group (`groups`: group by case id), seeded, whatever the order of the cases.

    `stratify` gives each case a stratum (such as the classes present); every role gets its share of each stratum.
    With `settings.locked_pattern` the groups of the cases that it finds are locked, and no others. Raises `UserError`
    when there are too few groups.
    """
    members: dict[str, list[str]] = {}
    for case in sorted(groups):
        members.setdefault(groups[case], []).append(case)
    named = _named(groups, settings.locked_pattern)
    locked, calibration = _held_back(len(members), settings, len(named) if settings.locked_pattern else None)
    strata = {group: _stratum(cases, stratify) for group, cases in members.items()}
    order = sorted(_spread(strata, settings.seed), key=lambda group: group not in named)  # stable
    rest = sorted(order[locked + calibration :], key=lambda group: strata[group])  # stable: random within a stratum
    folds = [rest[i :: settings.folds] for i in range(settings.folds)]

    def cases_of(chosen: list[str]) -> tuple[str, ...]:
        return tuple(sorted(case for group in chosen for case in members[group]))

    return Splits(
        locked=cases_of(order[:locked]),
        calibration=cases_of(order[locked : locked + calibration]),
        folds=tuple(cases_of(fold) for fold in folds),
    )


def _named(groups: Mapping[str, str], pattern: str | None) -> set[str]:
    """Return the groups with a case that the pattern finds."""
    if pattern is None:
        return set()
    try:
        named = {group for case, group in groups.items() if re.search(pattern, case)}
    except re.error as error:
        raise UserError(
            f"the pattern of locked cases must be a regular expression, but got '{pattern}' ({error})"
        ) from None
    if not named:
        raise UserError(f"the pattern of locked cases must find some, but '{pattern}' finds none: correct it")
    return named


def _held_back(groups: int, settings: PrepareSettings, named: int | None = None) -> tuple[int, int]:
    """Numbers of locked and calibration groups: the nearest to their fractions, at least one where one is asked for.

    `named`: so many are locked whatever the fraction.
    """
    fractions = (settings.locked_fraction, settings.calibration_fraction)
    if min(fractions) < 0 or sum(fractions) >= 1:
        raise UserError(f"locked and calibration fractions must be >= 0 and below 1 together, but got {fractions}")
    if settings.folds < 2:
        raise UserError(f"folds must be at least 2, but got {settings.folds}: one validates, the others train")
    locked, calibration = (max(1, round(f * groups)) if f > 0 else 0 for f in fractions)
    locked = locked if named is None else named
    least = settings.folds + locked + calibration
    if groups < least:
        raise UserError(
            f"a data set must have at least {least} groups for {settings.folds} folds, {locked} locked and "
            f"{calibration} calibration groups, but has {groups}: add cases, or ask for fewer folds"
        )
    return locked, calibration


def _stratum(cases: list[str], stratify: Mapping[str, str] | None) -> str:
    return "|".join(sorted({stratify[case] for case in cases})) if stratify else ""


def _spread(strata: Mapping[str, str], seed: int) -> list[str]:
    """Order groups at random so that every stretch of the order holds about its share of each stratum."""
    rng = np.random.default_rng(seed)
    by_stratum: dict[str, list[str]] = {}
    for group in sorted(strata):
        by_stratum.setdefault(strata[group], []).append(group)
    places: list[tuple[float, float, str]] = []
    for name in sorted(by_stratum):
        chosen = by_stratum[name]
        for rank, i in enumerate(rng.permutation(len(chosen))):
            places.append(((rank + rng.random()) / len(chosen), rng.random(), chosen[i]))
    return [group for _, _, group in sorted(places)]

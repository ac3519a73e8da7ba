"""Choosing the members of an ensemble from the outcomes of a search, by validation Dice only.

Different architectures detect failures better than seeds of one (Zenk et al. 2024), so the best variant of each
architecture comes first, then the best variants of other trials, then other variants. A member's vote shrinks with its
distance from the best one. People may choose instead; then nothing is dropped and all votes are equal.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from overread.data.hashing import file_sha256
from overread.errors import UserError, unknown_name
from overread.records import MAIN, ImportedMember, Member, TrialOutcome, VariantScore, Vote

LEAST = 3
"""Readings that relations should have: the margin is widened by `WIDER` to find so many."""
WIDER = 4.0
Outcomes = Mapping[str, tuple[TrialOutcome, Path]]
"""By trial id: the outcome and the folder it lies in."""
Choice = tuple[str, str]
"""(trial id, variant)."""
Voting = TypeVar("Voting", Member, ImportedMember)


@dataclass(frozen=True)
class Candidate:
    """A variant of a trial that may become a member."""

    outcome: TrialOutcome
    score: VariantScore
    folder: Path

    @property
    def weights(self) -> Path:
        """The trial's weights file."""
        return self.folder / str(self.outcome.weights)

    @property
    def choice(self) -> Choice:
        """Its trial and variant."""
        return self.outcome.trial_id, self.score.variant

    @property
    def name(self) -> str:
        """Its name as a member: part of file names and of entries of the flag column."""
        trial, family = self.outcome.trial_id, self.outcome.config.architecture
        name = trial if family in trial else f"{family}-{trial}"
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", name if self.score.variant == MAIN else f"{name}-{self.score.variant}")

    def reads_like(self, other: Candidate) -> bool:
        """Whether both are the same reading of one trial, such as `main` and `scale_1`: a second vote for nothing."""
        return (
            self.outcome.trial_id == other.outcome.trial_id
            and (self.score.dice, self.score.dice_per_class) == (other.score.dice, other.score.dice_per_class)
            and self.score.case_dice == other.score.case_dice
        )


def select_winners(
    outcomes: Outcomes,
    k: int = 5,
    margin: float = 0.05,
    chosen: Sequence[Choice] | None = None,
    *,
    votes: Mapping[Choice, Vote] | None = None,
    root: Path | None = None,
) -> tuple[Member, ...]:
    """Return the members of an ensemble.

    Args:
        outcomes: All trials of the search; those that failed or left no weights cannot be members.
        k: Most members (not of those chosen by hand).
        margin: Variants whose validation Dice is further below the best one are dropped, unless fewer than `LEAST`
            members are left; a vote falls by the factor e for each margin below the best.
        chosen: Chosen by hand, taken as they are; empty or None: by rule.
        votes: Chosen by `greedy`, with the votes of each, or its weights per class; excludes `chosen`.
        root: Folder that the members' weights paths are relative to; None: paths are as the folders are given.

    Raises:
        UserError: Nothing can be a member, or a chosen trial or variant does not exist.

    """
    if k < 1:
        raise UserError(f"an ensemble must have at least 1 member, but got k = {k}")
    if margin < 0:
        raise UserError(f"margin must be at least 0, but got {margin}")
    candidates = all_candidates(outcomes)
    if votes:
        named = _by_hand(candidates, tuple(votes), outcomes)
        return tuple(with_vote(_member(c, root), votes[c.choice], votes.values()) for c in named)
    if chosen:
        return tuple(_member(candidate, root) for candidate in _by_hand(candidates, chosen, outcomes))
    picked = _by_rule(candidates, k, margin)
    best = picked[0].score.dice
    return tuple(_member(candidate, root, vote(best - candidate.score.dice, margin)) for candidate in picked)


def with_vote(member: Voting, own: Vote, trained: Iterable[Vote]) -> Voting:
    """Return a member with the weight that its votes are of the most that a trained member has.

    Weights per class are kept as they are; the weight beside them, which is shown, is that of the background.
    """
    if isinstance(own, tuple):
        return replace(member, weight=own[0], class_weights=own)
    return replace(member, weight=round(own / max(value for value in trained if not isinstance(value, tuple)), 6))


def vote(below: float, margin: float) -> float:
    """Return the weight of a member whose validation Dice is `below` that of the best one.

    >>> vote(0.0, 0.05), round(vote(0.05, 0.05), 3)
    (1.0, 0.368)
    """
    return math.exp(-below / margin) if margin else 1.0


def shortlist(
    outcomes: Outcomes, limit: int, *, one_fold: bool = True, first: Collection[str] = ()
) -> tuple[Candidate, ...]:
    """Return the best candidates of one fold, that of the best one, without readings that are there twice.

    The main variants of the trials in `first` come before all others: members of the ensemble that a search built.

    Candidates of other folds were trained on its validation cases: they count only without `one_fold`, for those who
    read out of fold. None at all raises `UserError`.
    """
    candidates = all_candidates(outcomes)
    if not candidates:
        raise UserError("an ensemble needs at least one finished trial with weights, but there is none: search longer")
    fold = candidates[0].outcome.config.fold
    found: list[Candidate] = []
    ahead = [c for c in candidates if c.outcome.trial_id in first and c.score.variant == MAIN]
    for candidate in (*ahead, *candidates):  # who is there twice reads like itself
        double = any(candidate.reads_like(other) for other in found)
        right = candidate.outcome.config.fold == fold or not one_fold
        if right and not double and len(found) < limit:
            found.append(candidate)
    return tuple(found)


def select_baseline(outcomes: Outcomes, *, root: Path | None = None) -> Member | None:
    """Return the search's plain U-Net (`config.baseline`) as a member, its main variant; None if it has no weights."""
    plain = [c for c in all_candidates(outcomes) if c.outcome.config.baseline and c.score.variant == MAIN]
    return _member(plain[0], root) if plain else None


def selection_rule(
    k: int = 5,
    margin: float = 0.05,
    chosen: Sequence[Choice] | None = None,
    votes: Mapping[Choice, Vote] | None = None,
    folds: int = 1,
) -> str:
    """Return the rule in words, for `winners.json` and the report; `folds` are those that gave the votes."""
    if votes:
        given = ", ".join(f"{trial} {variant} ({vote_words(own)})" for (trial, variant), own in votes.items())
        kind = " for each class" if any(isinstance(own, tuple) for own in votes.values()) else ""
        where = "on the validation cases" if folds == 1 else f"out of fold on the cases of {folds} folds"
        return f"greedy selection with replacement{kind} {where}, at most {k} members; votes: {given}"
    if chosen:
        return "chosen by hand: " + ", ".join(f"{trial} {variant}" for trial, variant in chosen)
    return (
        f"by validation Dice: the best variant of each architecture first, then of other trials, then other variants, "
        f"at most {k}, none more than {margin:g} below the best (wider if fewer than {LEAST}), no reading twice; "
        f"votes fall by the factor e per {margin:g}"
    )


def vote_words(own: Vote) -> str:
    """Return a vote in words: the weights of classes one by one, the background first.

    >>> vote_words(2.0), vote_words((0.75, 1.0, 0.5))
    ('2', '0.75 / 1 / 0.5')
    """
    return " / ".join(f"{value:.3g}" for value in own) if isinstance(own, tuple) else f"{own:.3g}"


def all_candidates(outcomes: Outcomes) -> list[Candidate]:
    """Return all possible members, best first; ties go by name, `main` before others."""
    found = [
        Candidate(outcome, score, folder)
        for outcome, folder in outcomes.values()
        if outcome.state != "failed" and outcome.weights is not None and (folder / outcome.weights).is_file()
        for score in outcome.variants
        if math.isfinite(score.dice)
    ]
    return sorted(found, key=lambda c: (-c.score.dice, c.outcome.trial_id, c.score.variant != MAIN, c.score.variant))


def _by_rule(candidates: Sequence[Candidate], k: int, margin: float) -> list[Candidate]:
    if not candidates:
        raise UserError("an ensemble needs at least one finished trial with weights, but there is none: search longer")
    best = candidates[0].score.dice
    picked = _take(candidates, [c for c in candidates if c.score.dice >= best - margin], [], k)
    wider = [c for c in candidates if c.score.dice >= best - WIDER * margin]
    return _take(candidates, wider, picked, min(k, LEAST))


def _take(
    candidates: Sequence[Candidate], allowed: list[Candidate], picked: list[Candidate], k: int
) -> list[Candidate]:
    """Add allowed candidates up to `k`: leaders of the architectures, then leaders of the trials, then the rest."""
    families = {c.outcome.config.architecture: c for c in reversed(candidates)}.values()
    trials = {c.outcome.trial_id: c for c in reversed(candidates)}.values()
    ranked = [[c for c in allowed if any(c is leader for leader in leaders)] for leaders in (families, trials)]
    for candidate in [*ranked[0], *ranked[1], *allowed]:
        if len(picked) < k and not any(candidate.reads_like(other) for other in picked):
            picked = [*picked, candidate]
    return picked


def _by_hand(candidates: Sequence[Candidate], chosen: Sequence[Choice], outcomes: Outcomes) -> list[Candidate]:
    known = {(c.outcome.trial_id, c.score.variant): c for c in candidates}
    for trial, variant in chosen:
        if trial not in outcomes:
            raise unknown_name("trial", trial, outcomes)
        if (trial, variant) not in known:
            usable = [v for t, v in known if t == trial]
            if not usable:
                raise UserError(f"trial {trial} must have weights to be a winner, but has none: choose another trial")
            raise unknown_name(f"variant of trial {trial}", variant, usable)
    return [known[choice] for choice in dict.fromkeys(chosen)]


def _member(candidate: Candidate, root: Path | None, weight: float = 1.0) -> Member:
    outcome, score = candidate.outcome, candidate.score
    weights = candidate.weights
    return Member(
        name=candidate.name,
        trial_id=outcome.trial_id,
        architecture=outcome.config.architecture,
        variant=score.variant,
        config=outcome.config,
        weights=str(weights) if root is None else Path(os.path.relpath(weights, root)).as_posix(),
        sha256=file_sha256(weights),
        validation_dice=score.dice,
        weight=round(weight, 6),
    )

"""Figures, scores and flags as people read them."""

from __future__ import annotations

from overread.metrics.summary import Summary

SCORE_NAMES = {
    "relation_confidence": "relation confidence",
    "pairwise_dice": "pairwise Dice",
    "predicted_dice": "predicted Dice",
    "dice_lower_bound": "lower bound",
    "dice": "true Dice",
    "foreground": "max. foreground",
    "entropy": "minus entropy",
    "sa_mean": "segmentation ability",
}
FLAGS = {"all_empty": "all readings are empty", "one_reading": "only one reading", "member_failed": "member failed"}


def number(value: float | None) -> str:
    """Return three decimals, or a dash for what is not defined."""
    return "–" if value is None else f"{value:.3f}"  # noqa: RUF001  (a dash, as print has it)


def percent(value: float | None) -> str:
    """Return a share in per cent, or a dash for what is not defined.

    >>> percent(0.9032), percent(1.0)
    ('90.3 %', '100 %')
    """
    return number(None) if value is None else f"{100 * value:.3g} %"


def interval(summary: Summary) -> str:
    """Return the 95 % interval of a mean, or a dash for fewer than two cases."""
    return number(None) if summary.low is None else f"{number(summary.low)} to {number(summary.high)}"


def count(value: int, word: str) -> str:
    """Return a number with its noun.

    >>> count(1, "case"), count(2, "case")
    ('1 case', '2 cases')
    """
    return f"{value} {word}" if value == 1 else f"{value} {word}s"


def score_name(score: str) -> str:
    """Return the name of a score as people read it."""
    return SCORE_NAMES.get(score, score.replace("_", " "))


def flag_words(flag: str) -> list[str]:
    """Return a flag in words.

    >>> flag_words("member_failed:unet-1;all_empty")
    ['member failed: unet-1', 'all readings are empty']
    """
    found = []
    for part in filter(None, flag.split(";")):
        kind, _, detail = part.partition(":")
        found.append(FLAGS.get(kind, kind.replace("_", " ")) + (f": {detail}" if detail else ""))
    return found

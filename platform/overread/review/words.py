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

NOTHING = "–"  # noqa: RUF001  (a dash, as print has it)
"""What is not defined, or was not printed."""
SIGNED = "+.4f"
"""Form of a difference of Dice."""


def number(value: float | None, form: str = ".3f") -> str:
    """Return three decimals, or what `form` says, or a dash for what is not defined."""
    return NOTHING if value is None else f"{value:{form}}"


def percent(value: float | None) -> str:
    """Return a share in per cent, or a dash for what is not defined.

    >>> percent(0.9032), percent(1.0)
    ('90.3 %', '100 %')
    """
    return number(None) if value is None else f"{100 * value:.3g} %"


def between(low: float | None, high: float | None, form: str = ".3f") -> str:
    """Return the ends of an interval, or a dash where there is none."""
    return number(None) if low is None or high is None else f"{low:{form}} to {high:{form}}"


def interval(summary: Summary, form: str = ".3f") -> str:
    """Return the 95 % interval of a mean, or a dash for fewer than two cases."""
    return between(summary.low, summary.high, form)


def with_interval(value: float | None, low: float | None, high: float | None, form: str = ".3f") -> str:
    """Return a value with its interval where it has one.

    >>> with_interval(0.5, 0.4, 0.6), with_interval(0.5, None, None, "+.1f"), with_interval(None, None, None)
    ('0.500 (0.400 to 0.600)', '+0.5', '–')
    """
    if value is None or low is None or high is None:
        return number(value, form)
    return f"{value:{form}} ({between(low, high, form)})"


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

import pytest

from overread.metrics.summary import summarise
from overread.review.words import count, flag_words, interval, number, percent, score_name


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("", []),
        ("one_reading", ["only one reading"]),
        ("member_failed:a,b;all_empty", ["member failed: a,b", "all readings are empty"]),
    ],
)
def test_flags_in_words(flag: str, words: list[str]) -> None:
    assert flag_words(flag) == words


def test_figures_in_words() -> None:
    assert (number(0.12345), number(None)) == ("0.123", "–")  # noqa: RUF001  (a dash)
    assert interval(summarise([0.5])) == "–"  # noqa: RUF001
    assert interval(summarise([0.5, 0.5])) == "0.500 to 0.500"
    assert (percent(0.9032), percent(1.0), percent(None)) == ("90.3 %", "100 %", "–")  # noqa: RUF001
    assert (count(1, "case"), count(0, "case")) == ("1 case", "0 cases")
    assert (score_name("pairwise_dice"), score_name("c_12")) == ("pairwise Dice", "c 12")

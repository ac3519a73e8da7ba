import pytest

from overread.errors import UserError
from overread.search.settings import SearchSettings


def test_a_search_must_have_an_end() -> None:
    with pytest.raises(UserError, match="neither --trials nor --time-budget"):
        SearchSettings()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trials", 0),
        ("time_budget_s", -1.0),
        ("workers_per_trial", ()),
        ("workers_per_trial", (0,)),
        ("fold", -1),
        ("min_steps", 0),
    ],
)
def test_numbers_must_be_positive(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field):
        SearchSettings(**({"trials": 1} | {field: value}))  # type: ignore[arg-type]


def test_a_search_by_gain_opens_with_one_point_of_each_family() -> None:
    assert SearchSettings(trials=1).opening is None
    assert SearchSettings(trials=1, objective="gain_and_failure").opening == 1
    assert SearchSettings(trials=1, objective="gain", points_per_family=3).opening == 3
    assert SearchSettings(trials=1, points_per_family=1).opening == 1


def test_worker_numbers_take_turns() -> None:
    settings = SearchSettings(trials=4, workers_per_trial=(1, 2))
    assert [settings.workers(number) for number in range(4)] == [1, 2, 1, 2]
    assert SearchSettings.from_json(settings.to_json()) == settings

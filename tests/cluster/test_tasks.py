import pytest

from overread.cluster.session import Resources
from overread.cluster.tasks import ray_map
from overread.errors import UserError

pytestmark = pytest.mark.ray


def test_results_come_in_the_order_of_the_items(
    cluster: Resources, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "overread")
    assert ray_map(lambda number: number * number, [3, 1, 2], "squares") == [9, 1, 4]
    assert ray_map(lambda number: number * number, []) == []
    (line,) = (record.message for record in caplog.records)
    assert line.startswith("squares: 3 done in ")  # no terminal, no bar
    assert capsys.readouterr().out == ""


def test_an_error_of_the_user_arrives_as_itself(cluster: Resources) -> None:
    def call(number: int) -> int:
        if number == 2:
            raise UserError("case 2 must be finite, but is not: repair it")
        return number

    with pytest.raises(UserError) as caught:
        ray_map(call, [1, 2, 3])
    assert caught.value.problems == ("case 2 must be finite, but is not: repair it",)


def test_the_traceback_of_a_worker_reaches_the_user(cluster: Resources) -> None:
    def divide(number: int) -> int:
        return number // 0

    with pytest.raises(ZeroDivisionError, match="return number // 0"):
        ray_map(divide, [1])

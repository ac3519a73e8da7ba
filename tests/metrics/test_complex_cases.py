from overread.metrics.complex_cases import complex_groups, with_honest_interval
from overread.metrics.summary import summarise


def test_groups_are_nested_and_hold_their_limit():
    found = complex_groups({"a": 0.6, "b": 0.61, "c": 0.7, "d": 0.9, "e": None, "f": 0.0})
    assert found == {0.6: {"a", "f"}, 0.7: {"a", "b", "c", "f"}, 0.8: {"a", "b", "c", "f"}}
    assert complex_groups({"d": 0.9}) == {0.6: frozenset(), 0.7: frozenset(), 0.8: frozenset()}


def test_small_groups_get_no_interval():
    nine, ten = (summarise([0.1 * k for k in range(n)]) for n in (9, 10))
    assert nine.low is not None
    told = with_honest_interval(nine)
    assert (told.low, told.high) == (None, None)
    assert (told.mean, told.sd, told.n) == (nine.mean, nine.sd, 9)
    assert with_honest_interval(ten) == ten

import pytest

from overread.architectures.grid import Grid, Source
from overread.errors import UserError

WIRINGS = ("plain", "nested", "full_scale", "sharp")


def nodes(*pairs: tuple[int, int]) -> list[tuple[int, int]]:
    return list(pairs)


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("level", [1, 2, 4])
def test_every_node_comes_after_all_that_it_takes(wiring, level):
    grid = Grid(wiring, level)
    seen: set[tuple[int, int]] = set()
    for node in grid.nodes():
        assert {source.node for source in grid.sources(node)} <= seen
        assert all(source.node[0] - source.rise == node[0] for source in grid.sources(node))
        seen.add(node)
    assert len(seen) == (2 * level + 1 if wiring in ("plain", "full_scale") else (level + 1) * (level + 2) // 2)


def test_lower_levels_are_a_prefix_of_the_nodes():
    assert list(Grid("sharp", 1).nodes()) == nodes((0, 0), (1, 0), (0, 1))
    assert Grid("sharp", 4).nodes()[:6] == Grid("sharp", 2).nodes()


def test_the_rows_of_the_fact_sheet():
    sharp = Grid("sharp", 4)
    assert [s.node for s in sharp.sources((0, 4))] == nodes(
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 3), (2, 2), (3, 1), (4, 0)
    )
    assert [s.rise for s in sharp.sources((0, 4))] == [0, 0, 0, 0, 1, 2, 3, 4]
    assert [s.node for s in sharp.sources((2, 2)) if s.intra] == nodes((4, 0))
    assert [s.node for s in Grid("nested", 4).sources((0, 4))] == nodes((0, 0), (0, 1), (0, 2), (0, 3), (1, 3))
    assert [s.node for s in Grid("plain", 4).sources((1, 3))] == nodes((1, 0), (2, 2))
    full = Grid("full_scale", 4).sources((2, 2))
    assert full == (
        Source((0, 0), -2), Source((1, 0), -1), Source((2, 0), 0), Source((3, 1), 1), Source((4, 0), 2)
    )  # fmt: skip


def test_the_encoder_takes_the_level_above_and_first_the_image():
    assert Grid().sources((0, 0)) == ()
    assert Grid().sources((3, 0)) == (Source((2, 0), -1),)


def test_a_level_without_intra_connections_is_nested():
    grid = Grid("sharp", 4, intra=(True, False))
    assert grid.sources((1, 3)) == Grid("nested", 4).sources((1, 3))
    assert grid.sources((0, 4)) == grid.sources((0, 4)) != Grid("nested", 4).sources((0, 4))
    assert grid.sources((2, 2)) == Grid("sharp", 4).sources((2, 2))


def test_a_grid_has_a_level():
    with pytest.raises(UserError, match="at least 1, but got 0"):
        Grid("plain", 0)

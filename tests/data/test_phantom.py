"""The phantom: seeded, graded, learnable by contrast, and readable as a data set in every layout."""

from pathlib import Path

import numpy as np
import pytest

from overread.data.phantom import PhantomSettings, grades, make_case, read_difficulty, write_phantom
from overread.errors import UserError


def _contrast_to_noise(settings: PhantomSettings, difficulty: float) -> float:
    """Distance of the mean of organ 1 from the background, in deviations of the background; mean of ten cases."""
    values = []
    for index in range(10):
        case = make_case(settings, index, difficulty)
        inside, outside = case.image[0][case.labels[0] == 1], case.image[0][case.labels[0] == 0]
        values.append((inside.mean() - outside.mean()) / outside.std())
    return float(np.mean(values))


def test_difficulties_are_evenly_spaced_and_independent_of_the_drawing() -> None:
    assert sorted(grades(PhantomSettings(cases=5))) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert grades(PhantomSettings(cases=5)) == grades(PhantomSettings(cases=5, size=32, classes=4, kind="3d"))
    assert grades(PhantomSettings(cases=20)) != grades(PhantomSettings(cases=20, seed=1))


def test_hard_cases_have_less_contrast_and_smaller_organs() -> None:
    settings = PhantomSettings(size=48)
    easy, middle, hard = (_contrast_to_noise(settings, difficulty) for difficulty in (0.0, 0.5, 1.0))
    assert easy > 1.5 * middle > 1.5 * 1.3 * hard > 0
    area = [np.mean([np.count_nonzero(make_case(settings, i, d).labels) for i in range(10)]) for d in (0.0, 1.0)]
    assert area[0] > 1.5 * area[1]


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_every_class_is_present_and_shapes_are_as_asked(kind: str) -> None:
    settings = PhantomSettings.from_json({"kind": kind, "size": 32, "depth": 8, "classes": 4, "channels": 2})
    grid = (32, 32) if kind == "2d" else (32, 32, 8)
    for index, difficulty in enumerate((0.0, 1.0)):
        case = make_case(settings, index, difficulty)
        assert case.image.shape == (2, *grid)
        assert case.labels.shape == (1, *grid)
        assert set(np.unique(case.labels)) == {0, 1, 2, 3}


def test_annotators_disagree_more_where_borders_are_softer() -> None:
    settings = PhantomSettings(annotators=3)

    def agreement(difficulty: float) -> float:
        masks = [make_case(settings, index, difficulty).labels > 0 for index in range(8)]
        return float(np.mean([m.all(0).sum() / m.any(0).sum() for m in masks]))

    assert agreement(0.0) > agreement(0.5) > agreement(1.0)
    generous, _, strict = (make_case(settings, 0, 0.5).labels > 0).sum((1, 2))
    assert generous > strict


def test_equal_settings_give_equal_files_and_the_known_difficulty(tmp_path: Path) -> None:
    settings = PhantomSettings(cases=3, size=32, kind="3d", depth=8, seed=7)
    first, second = write_phantom(tmp_path / "a", settings), write_phantom(tmp_path / "b", settings)
    names = sorted(path.relative_to(first) for path in first.rglob("*.*") if path.suffix != ".gz")
    assert [(first / name).read_bytes() for name in names] == [(second / name).read_bytes() for name in names]
    assert tuple(read_difficulty(first).values()) == grades(settings)
    other = make_case(PhantomSettings(cases=3, size=32, kind="3d", depth=8, seed=8), 0, 0.5)
    assert not np.array_equal(other.image, make_case(settings, 0, 0.5).image)


def test_wrong_settings_and_full_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="classes must be at least 2, but got 1") as wrong:
        PhantomSettings(classes=1, cases=0)
    assert len(wrong.value.problems) == 2
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="must be new or empty"):
        write_phantom(tmp_path, PhantomSettings(cases=1))
    with pytest.raises(UserError, match="only phantoms"):
        read_difficulty(tmp_path)

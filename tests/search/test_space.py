from dataclasses import replace
from pathlib import Path

import pytest

from overread.architectures import ARCHITECTURES
from overread.errors import UserError
from overread.search.budget import suggest_point
from overread.search.space import (
    SpaceContext,
    fitting_architectures,
    known_spaces,
    load_space,
    make_config,
    points,
    space_architectures,
)
from overread.testing.tiny import tiny_prepared

BATCHES = dict.fromkeys(ARCHITECTURES, 8)
WIDTHS = dict.fromkeys(ARCHITECTURES, (8, 12)) | {"unetmer": (8,)}
OWN = """
ARCHITECTURE = "unet"
POINTS = [{"own/depth": 3}]

def suggest(trial, context):
    return {"options": {"depth": trial.suggest_int("own/depth", 3, 4), "width": max(context.widths["unet"])}}
"""


def context(*architectures: str) -> SpaceContext:
    return SpaceContext(
        spatial_dims=2, volumetric=False, widths=WIDTHS, batch_sizes=BATCHES, architectures=architectures
    )


def test_an_unknown_space_lists_the_known_ones() -> None:
    assert {"panel", "unet", "unetmer", "unet_sharp"} <= set(known_spaces())
    with pytest.raises(UserError, match=r"unknown space 'unett': choose one of .*panel.*unet"):
        load_space("unett")


def test_families_of_a_joint_space_and_of_a_single_one() -> None:
    panel = load_space("panel")
    assert set(space_architectures("panel", panel)) == set(panel.DEFAULT) == {"unet", "unetmer", "unet_sharp"}
    assert set(space_architectures("panel", panel, ("all",))) == set(panel.families())
    assert space_architectures("panel", panel)[0] == "unet"
    assert space_architectures("panel", panel, ("unetmer", "unet")) == ("unet", "unetmer")
    assert space_architectures("unet", load_space("unet")) == ("unet",)
    with pytest.raises(UserError, match="unknown architecture of this space 'resnet'"):
        space_architectures("panel", panel, ("resnet",))


def test_what_the_data_cannot_train_is_left_out_of_all_and_refused_by_name(tmp_path: Path) -> None:
    panel, prepared = load_space("panel"), tiny_prepared(tmp_path)
    every = fitting_architectures("panel", panel, ("all",), prepared)
    assert set(space_architectures("panel", panel, ("all",))) - set(every) == {"mask_rcnn", "dai_net"}
    assert set(fitting_architectures("panel", panel, (), prepared)) == set(panel.DEFAULT)
    with pytest.raises(UserError, match="mask_rcnn must have instances of every case, but data set 'tiny' lacks them"):
        fitting_architectures("panel", panel, ("unet", "mask_rcnn"), prepared)
    with pytest.raises(UserError, match=r"dai_net must have images of at least one patch, 16 pixels, .* 10 of 10"):
        fitting_architectures("panel", panel, ("dai_net",), prepared)
    with_instances = replace(prepared, cases=tuple(replace(case, instances=True) for case in prepared.cases))
    assert "mask_rcnn" in fitting_architectures("panel", panel, ("all",), with_instances)


def test_points_are_those_of_the_families_at_the_largest_width() -> None:
    found = points(load_space("panel"), context("unet", "unetmer"))
    assert {point["architecture"] for point in found} == {"unet", "unetmer"}
    assert {point.get("unet/width") for point in found} == {12, None}
    assert [point["architecture"] for point in found[:2]] == ["unet", "unetmer"]


def test_every_point_of_every_space_makes_a_config(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path)
    for name in known_spaces():
        module = load_space(name)
        here = context(*space_architectures(name, module, ("all",)))
        for point in points(module, here):
            suggestion = suggest_point(module, here, point, seed=0)
            config = make_config(suggestion, prepared, here, steps=5, seed=3)
            family = config.architecture
            assert config.options["width"] == max(WIDTHS[family])
            assert (config.steps, config.seed, config.classes) == (5, 3, 2)


def test_the_patch_has_the_size_that_the_network_needs(tmp_path: Path) -> None:
    prepared = tiny_prepared(tmp_path, shape=(1, 20, 20))
    module, here = load_space("unet"), context("unet")
    (bare, *_) = points(module, here)  # depth 4: sizes are multiples of 2**3
    config = make_config(suggest_point(module, here, bare, 0), prepared, here, train_seconds=9.0)
    assert (config.patch_size, config.train_seconds) == ((24, 24), 9.0)


def test_a_point_outside_its_space_is_an_error() -> None:
    module = load_space("unet")
    with pytest.raises(UserError, match="points of a space must lie in it"):
        suggest_point(module, context("unet"), {"unet/norm": "layer"}, seed=0)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "own.py").write_text(OWN)
    (tmp_path / "spaces" / "broken.py").write_text("POINTS = []")
    prepared = tiny_prepared(tmp_path / "data")
    module = load_space("own", tmp_path / "spaces")
    here = context(*space_architectures("own", module))
    config = make_config(suggest_point(module, here, {"own/depth": 4}, 0), prepared, here, steps=1)
    assert (config.architecture, config.options) == ("unet", {"depth": 4, "width": 12})
    with pytest.raises(UserError, match="lacks suggest"):
        load_space("broken", tmp_path / "spaces")


def test_unknown_keys_of_a_suggestion_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"but got \['depth'\]"):
        make_config({"options": {}, "depth": 3}, tiny_prepared(tmp_path), context("unet"), steps=1)

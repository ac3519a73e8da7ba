"""Every space: draws build, points are really tried, names and values suit Optuna, Ray and JSON."""

import functools
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch

from overread.architectures import ARCHITECTURES, build_segmenter
from overread.records import AugmentConfig, OptimiserConfig, TrialConfig

FOLDER = Path(__file__).parents[2] / "search_spaces"
optuna.logging.set_verbosity(optuna.logging.WARNING)


def load(name):
    spec = importlib.util.spec_from_file_location(f"space_under_test_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAMILIES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "panel" and path.stem[0] != "_")
SPACES = [*FAMILIES, "panel"]


def context(volumetric=False, teachers=()):
    names = tuple(FAMILIES)
    return SimpleNamespace(
        spatial_dims=3 if volumetric else 2,
        volumetric=volumetric,
        widths=dict.fromkeys(names, (4, 8)),
        batch_sizes=dict.fromkeys(names, 4),
        architectures=names,
        classes=3,
        in_channels=1,
        teachers=teachers,
    )


def config(suggestion, architecture):
    return TrialConfig(
        architecture=suggestion.get("architecture", architecture),
        options=suggestion["options"],
        losses=suggestion["losses"],
        optimiser=OptimiserConfig.from_json(suggestion["optimiser"]),
        augment=AugmentConfig.from_json(suggestion["augment"]),
        spatial_dims=suggestion["spatial_dims"],
        batch_size=suggestion["batch_size"],
        in_channels=1,
        classes=3,
        patch_size=(128,) * suggestion["spatial_dims"],
        steps=1,
    )


@functools.cache
def build_once(structure):
    """Build the network of a config; draws that differ in the training alone share one."""
    with torch.device("meta"):
        build_segmenter(TrialConfig.from_json(json.loads(structure)))


def study():
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


def test_every_architecture_has_a_space_of_the_same_name():
    assert list(ARCHITECTURES) == FAMILIES


@pytest.mark.parametrize("volumetric", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_every_draw_builds_and_is_json(name, volumetric):
    module, drawn = load(name), study()
    for _ in range(25):
        trial = drawn.ask()
        suggestion = module.suggest(trial, context(volumetric))
        made = config(suggestion, name)
        assert TrialConfig.from_json(json.loads(json.dumps(made.to_json()))) == made
        terms = dict.fromkeys(made.losses, 1.0)
        structure = replace(made, optimiser=OptimiserConfig(), augment=AugmentConfig(), batch_size=1, losses=terms)
        build_once(json.dumps(structure.to_json(), sort_keys=True))
        prefix = f"{suggestion.get('architecture', name)}/"
        assert all(key == "architecture" or key.startswith(prefix) for key in trial.params)
        assert all(isinstance(value, str | int | float | bool) for value in trial.params.values())
        drawn.tell(trial, 0.0)


@pytest.mark.parametrize("name", SPACES)
def test_points_are_tried_as_written(name):
    module, drawn = load(name), study()
    for point in module.POINTS:
        drawn.enqueue_trial(point)
    for point in module.POINTS:
        trial = drawn.ask()
        module.suggest(trial, context())
        asked = {key: value for key, value in point.items() if key in trial.params}
        assert {key: trial.params[key] for key in asked} == asked
        left_out = set(trial.params) - set(point)
        assert all(key.endswith("/width") for key in left_out)
        drawn.tell(trial, 0.0)


def test_volumes_may_be_cut_into_slices_or_patches():
    module, drawn = load("unet"), study()
    dims = {module.suggest(drawn.ask(), context(volumetric=True))["spatial_dims"] for _ in range(12)}
    assert dims == {2, 3}
    assert {module.suggest(drawn.ask(), context())["spatial_dims"] for _ in range(6)} == {2}


def test_the_panel_tries_one_point_of_each_family_first_and_the_bare_unet_before_all():
    points = load("panel").POINTS
    assert points[0]["architecture"] == "unet"
    assert points[0]["unet/learning_rate"] == 3e-3
    assert sorted(point["architecture"] for point in points[: len(FAMILIES)]) == FAMILIES
    assert len(points) == sum(len(load(name).POINTS) for name in FAMILIES)


def test_the_panel_draws_only_the_architectures_of_its_context():
    module, drawn = load("panel"), study()
    only = context()
    only.architectures = ("unetmer",)
    assert module.suggest(drawn.ask(), only)["architecture"] == "unetmer"


def test_the_unet_sharp_space_asks_only_for_switches_that_matter():
    module, drawn = load("unet_sharp"), study()
    for level, rows in ((1, []), (2, [0]), (3, [0, 1]), (4, [0, 1, 2])):
        drawn.enqueue_trial({"unet_sharp/level": level, "unet_sharp/wiring": "sharp"})
        trial = drawn.ask()
        module.suggest(trial, context())
        assert sorted(key for key in trial.params if "intra" in key) == [f"unet_sharp/intra_{row}" for row in rows]
        assert ("unet_sharp/connection" in trial.params) == (level > 1)
    drawn.enqueue_trial({"unet_sharp/level": 4, "unet_sharp/wiring": "plain"})
    trial = drawn.ask()
    module.suggest(trial, context())
    assert "unet_sharp/connection" not in trial.params


def test_the_sources_of_the_maps_are_a_dimension():
    space, drawn = load("dai_net"), study()
    teachers = tuple({"vit": {"size": size}, "image_size": 64} for size in ("tiny", "small"))
    found = [space.suggest(drawn.ask(), context(teachers=teachers))["options"]["attention"] for _ in range(12)]
    assert all(teacher in found for teacher in teachers)
    alone = study()  # Optuna keeps the choices of a study
    forms = [space.suggest(alone.ask(), context())["options"] for _ in range(12)]
    assert all(options["attention"] == space.RANDOM for options in forms)  # without a teacher
    assert all(("switches" in options) == (options["form"] == "dual") for options in forms)

"""The registry entry of an architecture: building, counting, describing."""

from __future__ import annotations

import pytest
import torch

from overread.architectures import ARCHITECTURES, build_segmenter, count_parameters
from overread.errors import UserError
from overread.records import TrialConfig

CONFIG = TrialConfig(
    architecture="unet", options={"width": 4, "depth": 2}, in_channels=1, classes=2, patch_size=(8, 8), steps=1, seed=5
)


def test_the_seed_of_the_config_draws_the_weights_and_leaves_the_callers_stream_alone() -> None:
    torch.manual_seed(0)
    first = build_segmenter(CONFIG).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)
    second = build_segmenter(CONFIG).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_published_parameters_are_counted_without_memory() -> None:
    with torch.device("meta"):
        model = ARCHITECTURES["unet"].build({}, in_channels=1, classes=2)
    assert count_parameters(model) == ARCHITECTURES["unet"].published_parameters() == 31_042_434


def test_a_description_says_what_the_count_holds_for() -> None:
    description = ARCHITECTURES["unet_sharp"].describe()
    assert (description["parameters"], description["in_channels"], description["classes"]) == (9_716_545, 3, 2)
    assert description["options"]["connection"] == "project"


@pytest.mark.parametrize(
    ("options", "dims", "says"),
    [({"depht": 3}, 2, "unknown keys"), ({}, 4, "spatial_dims in"), ({"width": 0}, 2, "width")],
)
def test_wrong_options_are_named(options: dict[str, int], dims: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ARCHITECTURES["unet"].build(options, in_channels=1, classes=2, spatial_dims=dims)


def test_an_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(UserError, match="choose one of unet, unet_sharp, unetmer"):
        ARCHITECTURES["vnet"]

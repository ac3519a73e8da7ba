"""The registry entry of an architecture: building, counting, describing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from overread.architectures import (
    ARCHITECTURES,
    Losses,
    Network,
    Segmenter,
    build_segmenter,
    count_parameters,
)
from overread.architectures.blocks import convolution
from overread.architectures.heads import softmax_losses
from overread.errors import UserError
from overread.records import Batch, Needs, Readings, TrialConfig, Variant
from overread.testing.architectures import toy_batch

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
    with pytest.raises(UserError, match=r"choose one of attention_unet, .*, unet_sharp, unetmer, unext"):
        ARCHITECTURES["vnet"]


def test_an_unknown_spatial_dims_is_refused_for_networks_too() -> None:
    with pytest.raises(UserError, match=r"spatial_dims in \[2\]"):
        ARCHITECTURES["uctransnet"].build_network({}, in_channels=1, spatial_dims=3)


class PairHeads(Segmenter):
    """The relation heads of a pair of images over any network: two masks, their union and their intersection."""

    def __init__(self, network: Network, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        self.heads = torch.nn.ModuleList(
            convolution(network.spatial_dims, network.feature_channels, classes, kernel=1) for _ in range(4)
        )
        self.needs = Needs(pairs=True, size_multiple=network.size_multiple)

    def maps(self, first: Tensor, second: Tensor) -> list[Tensor]:
        last = self.network.features(torch.cat([first, second], 1)).last
        return [head(last) for head in self.heads]

    def forward(self, batch: Batch, part: int = 0) -> Losses:
        assert batch.partner is not None
        one, two = batch.labels[:, 0] > 0, batch.partner.labels[:, 0] > 0
        targets = [torch.stack([~t, t], 1).float() for t in (one, two, one | two, one & two)]
        maps = self.maps(batch.images, batch.partner.images)
        weights = {"ce": 1.0, "dice": 0.0}
        losses = [softmax_losses(m, t, weights)["loss"] for m, t in zip(maps, targets, strict=True)]
        return {"loss": torch.stack(losses).mean()}

    def read(
        self,
        batch: Batch,
        *,
        variant: Variant | None = None,
        anchors: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> Readings:
        one, two, possible, consensus = (m.softmax(1) for m in self.maps(batch.images, batch.images))

        def alternatives() -> Iterator[tuple[str, Tensor]]:
            yield from {"possible": possible, "consensus": consensus}.items()

        return Readings(probabilities=(one + two) / 2, alternatives=alternatives)


SMALL = {
    "unet": {"width": 4, "depth": 3},
    "unet_sharp": {"width": 4, "level": 2},
    "unetmer": {"width": 4, "pools": 2, "scales": [1, 2], "heads": 2, "transformer_depth": 1, "position_grid": 4},
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_segmenter_of_another_paper_stands_on_any_network(name: str) -> None:
    network = ARCHITECTURES[name].build_network(SMALL[name], in_channels=2)
    segmenter = PairHeads(network, classes=2)
    batch = toy_batch((16, 24), channels=1, classes=2, needs=segmenter.needs)
    segmenter(batch)["loss"].backward()
    assert all(p.grad is not None for p in segmenter.heads.parameters())
    readings = segmenter.eval().read(batch)
    assert readings.probabilities.shape == (3, 2, 16, 24)
    assert [name for name, _ in readings.alternatives()] == ["possible", "consensus"]

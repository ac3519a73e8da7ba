"""The U by hand: stages that change nothing, and joins that add."""

import pytest
import torch
from torch import Tensor, nn

from overread.architectures.u_shaped import UShaped, check_depth, doubled
from overread.errors import UserError


class Total(nn.Module):
    """The sum over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True)


class Plain(UShaped):
    title = "plain"

    def __init__(self, levels: int = 3) -> None:
        super().__init__([1] * levels, in_channels=1, spatial_dims=2)
        self.encoder = nn.ModuleList(nn.Identity() for _ in range(levels))
        self.ups = nn.ModuleList(nn.Upsample(scale_factor=2) for _ in range(levels - 1))
        self.decoder = nn.ModuleList(Total() for _ in range(levels - 1))


class Halving(Plain):
    pooled = False

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([nn.Identity(), nn.AvgPool2d(2), nn.AvgPool2d(2)])

    def join(self, level: int, skip: Tensor, below: Tensor) -> Tensor:
        return -super().join(level, skip, below)


IMAGE = torch.arange(16.0).reshape(1, 1, 4, 4)


def test_maps_are_pooled_on_the_way_down_and_joined_on_the_way_up() -> None:
    network = Plain()
    skips, bottom = network.encode(IMAGE)
    assert torch.equal(skips[0], IMAGE) and bottom.item() == 15
    assert skips[1].flatten().tolist() == [5, 7, 13, 15]
    up = torch.tensor([[20.0, 22.0], [28.0, 30.0]])  # 15 everywhere, plus the skip
    assert torch.equal(network(IMAGE)[0, 0], IMAGE[0, 0] + up.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_stages_may_halve_and_networks_join_in_their_own_way() -> None:
    network = Halving()
    skips, bottom = network.encode(IMAGE)
    assert skips[1].flatten().tolist() == [2.5, 4.5, 10.5, 12.5] and bottom.item() == 7.5
    assert network(IMAGE)[0, 0, 0, 0].item() == -(0 - (2.5 + 7.5))


def test_what_others_ask_of_it_follows_from_the_channels() -> None:
    network = UShaped.__new__(Plain)
    UShaped.__init__(network, doubled(4, 3), in_channels=2, spatial_dims=3)
    assert (network.feature_channels, network.bottom_channels, network.size_multiple) == (4, 16, 4)
    assert (network.in_channels, network.spatial_dims) == (2, 3)


def test_depths_are_limited() -> None:
    check_depth(2)
    check_depth(7, least=3)
    with pytest.raises(UserError, match=r"depth must be in 2\.\.7 levels, but got 8"):
        check_depth(8)
    with pytest.raises(UserError, match=r"depth must be in 3\.\.7 levels, but got 2"):
        check_depth(2, least=3)

import pytest
import torch

from overread.architectures import ARCHITECTURES
from overread.architectures.backbone import BackboneOptions
from overread.architectures.unet import UNet
from overread.architectures.unetmer import UNetmer
from overread.errors import UserError


def test_default_is_the_published_unet():
    with torch.device("meta"):
        network = BackboneOptions().network(in_channels=2)
    assert isinstance(network, UNet)
    assert (network.in_channels, network.spatial_dims, network.feature_channels) == (2, 2, 64)
    assert network.bottom_channels == 1024


def test_options_reach_the_backbone():
    options = BackboneOptions(backbone="unetmer", width=8, backbone_options={"scales": [1], "pools": 2})
    with torch.device("meta"):
        network = options.network(in_channels=3, spatial_dims=3)
    assert isinstance(network, UNetmer)
    assert (network.feature_channels, network.spatial_dims, network.size_multiple) == (8, 3, 4)
    assert BackboneOptions.from_json(options.to_json()) == options


def test_wrong_backbones_are_refused():
    with pytest.raises(UserError, match=r"unknown architecture 'u-net': choose one of .*unet"):
        BackboneOptions(backbone="u-net").network(in_channels=1)
    with pytest.raises(UserError, match=r"unknown keys \['levels'\]"):
        BackboneOptions(backbone_options={"levels": 3}).network(in_channels=1)
    with pytest.raises(UserError, match=r"depth must be in 2..7 levels, but got 9"):
        BackboneOptions(backbone_options={"depth": 9}).network(in_channels=1)
    with pytest.raises(UserError, match=r"width must stand beside backbone_options"):
        BackboneOptions(backbone_options={"width": 8})
    with pytest.raises(UserError, match=r"unext must have spatial_dims in \[2\], but got 3"):
        BackboneOptions(backbone="unext").network(in_channels=1, spatial_dims=3)


def test_a_segmenter_without_wiring_of_its_own_is_no_backbone():
    alone = next(name for name in ARCHITECTURES if ARCHITECTURES[name].network is None)
    with pytest.raises(UserError, match="must have a network to build on"):
        BackboneOptions(backbone=alone).network(in_channels=1)

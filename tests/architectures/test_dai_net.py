from dataclasses import replace
from typing import Any

import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.dai_net import ATTENTION, DAINet, DAINetOptions
from overread.errors import UserError
from overread.records import AugmentConfig, Batch
from overread.testing.architectures import ArchitectureContract, toy_batch
from overread.training.augment import Share, augment

ATTENTION_SMALL = {"vit": {"size": "tiny", "patch": 16, "depth": 1}, "image_size": 32}
SMALL: dict[str, Any] = {"width": 4, "attention": ATTENTION_SMALL}
OFF = [False] * 4


class TestDual(ArchitectureContract):
    name = "dai_net"
    options = SMALL


class TestSingle(ArchitectureContract):
    name = "dai_net"
    options = SMALL | {"form": "single"}
    size = (16, 32)
    classes = 2
    in_channels = 3


def count(**options: Any) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["dai_net"].build(options, in_channels=1, classes=9))


@pytest.mark.parametrize(
    ("setting", "parameters"),
    [
        ("dai_net", 43_585_865),
        ("dai_net_0111", 43_549_001),
        ("dai_net_0001", 42_811_721),
        ("dai_net_0000", 40_452_425),
        ("dai_net_single", 31_046_345),
    ],
)
def test_published_parameters(setting, parameters):
    assert ARCHITECTURES["dai_net"].published_parameters(setting) == parameters


def test_parameters_of_the_other_fusion_and_of_a_switch():
    assert count(fusion="own_bottom") == 55_126_345
    for level, switches in enumerate(([True, *OFF[1:]], [*OFF[:3], True])):
        channels = 64 << 3 * level  # a further C of inputs of the first Conv3 of that level
        assert count(switches=switches) - count(switches=OFF) == 9 * channels**2


def wiring(**options: Any) -> DAINet:
    torch.manual_seed(0)
    network = DAINet(DAINetOptions.from_json(SMALL | options), in_channels=4).eval()
    return network.requires_grad_(True)


def stacked(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 4, 32, 16, generator=torch.Generator().manual_seed(seed))


def test_without_switches_the_maps_act_through_the_bottom_only():
    network, one = wiring(switches=OFF), stacked()
    other = torch.cat([one[:, :1], stacked(1)[:, 1:]], 1)  # the same image with other maps
    (skips, bottom), (skips_other, bottom_other) = network.encode(one), network.encode(other)
    assert all(torch.equal(a, b) for a, b in zip(skips, skips_other, strict=True))
    assert (bottom - bottom_other).abs().max() > 1e-3
    assert not torch.equal(network(one), network(other))
    assert torch.equal(network.decode(skips_other, bottom), network(one))


@pytest.mark.parametrize("level", range(4))
def test_a_switch_opens_the_skip_of_its_level(level):
    switches = [i == level for i in range(4)]
    network = wiring(switches=switches)
    skips, bottom = network.encode(stacked())
    assert [skip.shape[1] for skip in skips] == [(4 << i) * (2 if i == level else 1) for i in range(4)]
    network.decode(skips, bottom.detach()).sum().backward()  # nothing but the skips can carry a gradient back
    reached = [block[1][0].weight.grad is not None for block in network.map_encoder.blocks]
    assert reached == [i <= level for i in range(4)]
    with_first = network.map_encoder.blocks[0][0][0].weight.grad
    assert with_first is not None
    assert with_first.abs().max() > 0


def test_without_switches_no_gradient_reaches_the_maps_past_the_bottom():
    network = wiring(switches=OFF)
    skips, bottom = network.encode(stacked())
    network.decode(skips, bottom.detach()).sum().backward()
    assert all(parameter.grad is None for parameter in network.map_encoder.parameters())


@pytest.mark.parametrize(("fusion", "channels"), [("pooled", 64), ("own_bottom", 128)])
def test_the_bottom_has_both_encoders(fusion, channels):
    network = wiring(fusion=fusion)
    bottom = network.encode(stacked())[1]
    assert bottom.shape == (2, channels, 2, 1)
    assert network.bottom_channels == channels


def test_augmenting_image_maps_and_mask_is_augmenting_their_stack():
    with torch.device("meta"):
        needs = ARCHITECTURES["dai_net"].build(SMALL, in_channels=1, classes=3).needs
    batch = toy_batch((32, 32), samples=6, needs=needs)
    together = replace(batch, images=torch.cat([batch.images, batch.extras[ATTENTION]], 1), extras={})
    config = AugmentConfig(flip=True, rotate_degrees=20.0, scale=0.2, intensity=0.0, probability=0.8)

    def changed(of: Batch) -> Batch:
        return augment(of, config, seed=3, step=5, share=Share(6))

    apart, stack = changed(batch), changed(together)
    assert torch.equal(torch.cat([apart.images, apart.extras[ATTENTION]], 1), stack.images)
    assert torch.equal(apart.labels, stack.labels)
    assert (apart.images - batch.images).abs().max() > 0.1
    assert apart.labels.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("fusion", ["pooled", "own_bottom"])
def test_every_layer_is_trained_whatever_is_switched_off(fusion):
    options = SMALL | {"fusion": fusion, "switches": [False, True, False, False]}
    segmenter = ARCHITECTURES["dai_net"].build(options, in_channels=1, classes=3)
    segmenter(toy_batch((32, 16), needs=segmenter.needs))["loss"].backward()
    missing = {name for name, parameter in segmenter.named_parameters() if parameter.grad is None}
    assert missing == {f"attention.{name}" for name, _ in segmenter.attention.named_parameters()}


def test_losses_are_half_cross_entropy_and_half_dice():
    segmenter = ARCHITECTURES["dai_net"].build(SMALL, in_channels=1, classes=3).eval()
    batch = toy_batch((32, 32), needs=segmenter.needs)
    losses = segmenter(batch)
    torch.testing.assert_close(losses["loss"].detach(), (losses["ce"] + losses["dice"]) / 2)


@pytest.mark.parametrize("term", ["dice_all", "dice_squared"])
def test_the_dice_of_the_paper_is_a_choice(term: str) -> None:
    segmenter = ARCHITECTURES["dai_net"].build(SMALL, in_channels=1, classes=3, losses={"dice": 0.0, term: 0.5})
    losses = segmenter(toy_batch((32, 16), needs=segmenter.needs))
    assert set(losses) == {"loss", "ce", term}
    torch.testing.assert_close(losses["loss"].detach(), (losses["ce"] + losses[term]) / 2)


def test_members_carry_the_teacher():
    segmenter = ARCHITECTURES["dai_net"].build(SMALL, in_channels=1, classes=3)
    weights = segmenter.state_dict()
    with torch.no_grad():
        weights["attention.vit.encoder.blocks.0.attention.qkv.weight"].mul_(3)
    image = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = segmenter.case_inputs(image)[ATTENTION]
    other = ARCHITECTURES["dai_net"].build(SMALL, in_channels=1, classes=3)
    assert not torch.equal(other.case_inputs(image)[ATTENTION], changed)
    other.load_state_dict(weights)
    assert torch.equal(other.case_inputs(image)[ATTENTION], changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width"),
        ({"form": "triple"}, "form"),
        ({"switches": [True]}, "4 entries"),
        ({"fusion": 1}, "fus"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DAINetOptions.from_json(options)


@pytest.mark.parametrize("backbone", ["attention_unet", "unet_plus_plus"])
def test_any_network_may_take_the_maps_as_further_channels(backbone):
    own = {"width": 4, "depth": 2}
    options = SMALL | {"form": "single", "backbone": backbone, "backbone_options": {"depth": 2}}
    segmenter = ARCHITECTURES["dai_net"].build(options, in_channels=1, classes=3)
    plain = ARCHITECTURES[backbone].build(own, in_channels=1, classes=3)
    # only the first Conv3 has more inputs: 3 heads x 4 channels
    assert count_parameters(segmenter) - count_parameters(plain) == 9 * 3 * 4
    batch = toy_batch((32, 32), needs=segmenter.needs)
    segmenter(batch)["loss"].backward()
    (first, *_) = (p for p in segmenter.network.parameters() if p.ndim == 4)
    assert first.grad is not None
    assert (first.grad.abs().amax((0, 2, 3)) > 0).tolist() == [True] * 4  # image and maps
    segmenter.eval()
    other = replace(batch, extras={ATTENTION: -batch.extras[ATTENTION]})
    assert not torch.allclose(segmenter.read(batch).probabilities, segmenter.read(other).probabilities)


def test_a_backbone_of_the_dual_form_is_refused():
    with pytest.raises(UserError, match="the dual one has encoders of its own and got 'attention_unet'"):
        DAINetOptions(backbone="attention_unet")

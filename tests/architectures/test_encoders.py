from typing import get_args

import pytest
import torch
from torch import nn

from overread.architectures import count_parameters
from overread.architectures.blocks import DoubleConv, convolution, max_pool
from overread.architectures.encoders import EncoderName, build_encoder
from overread.architectures.grid import Grid
from overread.errors import UserError

NAMES = get_args(EncoderName)


def count(name: str, **settings: object) -> int:
    with torch.device("meta"):
        return count_parameters(build_encoder(name, **({"in_channels": 3, "width": 64, "levels": 5} | settings)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("levels", [1, 3, 5])
def test_maps_are_those_promised_and_every_parameter_is_used(name, levels):
    encoder = build_encoder(name, in_channels=2, width=2, levels=levels)
    maps = encoder(torch.randn(2, 2, 64, 32, generator=torch.Generator().manual_seed(0)))
    assert len(maps) == levels
    for x, channels, stride in zip(maps, encoder.channels, encoder.strides, strict=True):
        assert x.shape == (2, channels, 64 // stride, 32 // stride)
    assert encoder.size_multiple == encoder.strides[-1]
    maps[-1].square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("double_conv", (8, 16, 32, 64, 128), (1, 2, 4, 8, 16)),
        ("v_net", (8, 16, 32, 64, 128), (1, 2, 4, 8, 16)),
        ("vgg16", (8, 16, 32, 64, 64), (1, 2, 4, 8, 16)),
        ("resnet18", (8, 8, 16, 32, 64), (2, 4, 8, 16, 32)),
        ("resnet50", (8, 32, 64, 128, 256), (2, 4, 8, 16, 32)),
        ("resnet101", (8, 32, 64, 128, 256), (2, 4, 8, 16, 32)),
    ],
)
def test_channels_follow_the_width(name, channels, strides):
    with torch.device("meta"):
        encoder = build_encoder(name, in_channels=1, width=8, levels=5)
    assert (encoder.channels, encoder.strides) == (channels, strides)


@pytest.mark.parametrize("name", ["double_conv", "v_net"])
def test_volumes(name):
    encoder = build_encoder(name, in_channels=2, width=2, levels=3, spatial_dims=3)
    maps = encoder(torch.zeros(1, 2, 4, 8, 12))
    assert [tuple(x.shape[1:]) for x in maps] == [(2, 4, 8, 12), (4, 2, 4, 6), (8, 1, 2, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_runs_in_bf16_and_channels_last(name):
    encoder = build_encoder(name, in_channels=3, width=4, levels=4).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = encoder(x)
    maps[-1].float().sum().backward()
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in maps)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


# ------------------------------------------------------------------------------------------------- V-Net


def nested_v_net(wiring: str, width: int) -> int:
    """Count a V-Net encoder, DoubleConv nodes that join all they take, and a 1x1 head."""
    grid = Grid(wiring=wiring, level=4)
    with torch.device("meta"):
        encoder = build_encoder("v_net", in_channels=1, width=width, levels=5, spatial_dims=3)
        nodes = {
            (i, j): DoubleConv(3, sum(encoder.channels[s.node[0]] for s in grid.sources((i, j))), encoder.channels[i])
            for i, j in grid.nodes()
            if j
        }
        head = convolution(3, width, 1, kernel=1)
    return sum(count_parameters(module) for module in (encoder, *nodes.values(), head))


@pytest.mark.parametrize(
    ("wiring", "width", "parameters"),
    [
        ("plain", 16, 26_388_385),  # V-Net
        ("plain", 18, 33_396_373),  # WV-Net
        ("nested", 16, 27_370_945),  # V-Net2+
        ("full_scale", 16, 27_839_905),  # V-Net3+
    ],
)
def test_v_nets_of_unet_sharp_have_their_published_parameters(wiring, width, parameters):
    assert nested_v_net(wiring, width) == parameters


def without_training(encoder: nn.Module) -> nn.Module:
    """Make all convolutions of an encoder return 0, and its norms do nothing."""
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    return encoder.eval()


def test_v_net_adds_the_mean_of_the_image_before_a_prelu_of_slope_a_quarter():
    encoder = without_training(build_encoder("v_net", in_channels=2, width=2, levels=1))
    x = torch.tensor([[[[1.0, -4.0]], [[3.0, -8.0]]]])
    assert encoder(x)[0].tolist() == [[[[2.0, -1.5]], [[2.0, -1.5]]]]


def test_v_net_stage_is_residual_around_its_conv5_units():
    encoder = without_training(build_encoder("v_net", in_channels=1, width=1, levels=2))
    nn.init.ones_(encoder.stages[0].down[0].weight)
    encoder.stages[0].down[1].eps = 0.0
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert encoder(x)[1].flatten().tolist() == [10.0, 10.0]  # the units give 0; the down-convolution is the sum


# ------------------------------------------------------------------------------------------------- VGG16


def test_vgg16_has_the_parameters_of_its_configuration():
    pairs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
    pairs += [(512, 512)] * 5
    assert sum(9 * i * o + o for i, o in pairs) == 14_714_688
    assert sum(9 * i * o + 3 * o for i, o in pairs) == 14_723_136 == count("vgg16")


def test_vgg16_names_its_layers_as_the_usual_weights_do():
    with torch.device("meta"):
        state = build_encoder("vgg16", in_channels=3, width=64, levels=5).state_dict()
    first = [0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]
    shapes = {name: tuple(value.shape) for name, value in state.items() if value.ndim == 4}
    assert list(shapes) == [f"features.{i}.weight" for i in first]
    assert (shapes["features.0.weight"], shapes["features.24.weight"]) == ((64, 3, 3, 3), (512, 256, 3, 3))
    fields = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norms = {f"features.{i + 1}.{field}" for i in first for field in fields}
    assert set(state) == set(shapes) | {f"features.{i}.bias" for i in first} | norms


def test_vgg16_maps_are_those_before_the_pooling():
    encoder = build_encoder("vgg16", in_channels=1, width=2, levels=2).eval()
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    first, second = encoder(x)
    torch.testing.assert_close(first, encoder.features[:6](x))
    torch.testing.assert_close(second, encoder.features[7:](max_pool(first)))


# ------------------------------------------------------------------------------------------------- ResNet


def test_resnets_have_their_published_parameters_without_the_classifier():
    assert count("resnet18") == 11_689_512 - 513 * 1000
    assert count("resnet50") == 25_557_032 - 2049 * 1000
    assert count("resnet101") == 44_549_160 - 2049 * 1000
    assert count("resnet50", output_stride=8) == count("resnet50")
    assert count("resnet18", in_channels=1) == count("resnet18") - 2 * 49 * 64


@pytest.mark.parametrize(("name", "blocks", "convolutions"), [("resnet18", 8, 2), ("resnet50", 16, 3)])
def test_resnets_name_their_layers_as_the_usual_weights_do(name, blocks, convolutions):
    with torch.device("meta"):
        state = build_encoder(name, in_channels=3, width=64, levels=5).state_dict()
    inside = {f"{kind}{i}" for kind in ("conv", "bn") for i in range(1, convolutions + 1)} | {"downsample"}
    names = [key.split(".") for key in state]
    assert {parts[0] for parts in names} == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    assert {parts[2] for parts in names if parts[0] not in ("conv1", "bn1")} == inside
    assert len({tuple(parts[:2]) for parts in names if parts[0].startswith("layer")}) == blocks
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert {"bn1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer4.1.bn2.bias"} <= set(state)
    assert state["layer2.0.downsample.0.weight"].shape[:1] == state["layer2.0.downsample.1.weight"].shape
    assert ("layer1.0.downsample.0.weight" in state) == (name != "resnet18")
    assert not any(key.endswith("bias") and ("conv" in key or "downsample.0" in key) for key in state)


def test_usual_weights_load_with_and_without_the_counter_of_batches():
    encoder = build_encoder("resnet18", in_channels=3, width=2, levels=5)
    other = build_encoder("resnet18", in_channels=3, width=2, levels=5)
    weights = {k: v for k, v in encoder.state_dict().items() if not k.endswith("num_batches_tracked")}
    other.load_state_dict(weights)
    assert torch.equal(other.conv1.weight, encoder.conv1.weight)


def test_an_output_stride_keeps_resolution_and_dilates_as_torchvision_does():
    encoder = build_encoder("resnet50", in_channels=1, width=1, levels=5, output_stride=8)
    assert encoder.strides == (2, 4, 8, 8, 8)
    assert encoder.size_multiple == 8
    dilations = {
        stage: [block.conv2.dilation[0] for block in getattr(encoder, stage)]
        for stage in ("layer2", "layer3", "layer4")
    }
    assert dilations == {"layer2": [1] * 4, "layer3": [1] + [2] * 5, "layer4": [2, 4, 4]}
    sixteen = build_encoder("resnet18", in_channels=1, width=1, levels=5, output_stride=16)
    assert sixteen.strides == (2, 4, 8, 16, 16)
    assert [block.conv2.dilation[0] for block in sixteen.layer4] == [1, 2]
    assert [x.shape[2] for x in sixteen.eval()(torch.zeros(1, 1, 32, 32))] == [16, 8, 4, 2, 2]


def test_a_block_whose_convolutions_are_silent_is_its_shortcut():
    for name in ("resnet18", "resnet50"):
        encoder = without_training(build_encoder(name, in_channels=1, width=2, levels=2))
        block = encoder.layer1[1]
        x = torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 2).expand(1, encoder.channels[1], 1, 2)
        assert torch.equal(block(x), x.relu())


# ------------------------------------------------------------------------------------------------- all


def test_the_double_conv_encoder_is_that_of_the_u_net():
    # two Conv3 with bias and BN per level, hand-counted: 9 i o + 9 o o + 6 o
    pairs = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    assert count("double_conv") == sum(9 * o * (i + o) + 6 * o for i, o in pairs)
    encoder = build_encoder("double_conv", in_channels=1, width=2, levels=2)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    first, second = encoder(x)
    torch.testing.assert_close(second, encoder.blocks[1](max_pool(first)))


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="unknown encoder 'vgg19': choose one of double_conv, resnet101"):
        build_encoder("vgg19", in_channels=1, width=8, levels=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width"),
        ({"levels": 0}, "levels"),
        ({"name": "vgg16", "levels": 6}, "levels"),
        ({"name": "resnet50", "spatial_dims": 3}, "spatial_dims"),
        ({"name": "vgg16", "spatial_dims": 3}, "v_net"),
        ({"name": "vgg16", "output_stride": 8}, "output_stride"),
        ({"name": "resnet18", "output_stride": 4}, "output_stride"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        build_encoder(**({"name": "double_conv", "in_channels": 1, "width": 8, "levels": 5} | changes))

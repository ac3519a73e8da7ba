# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch
from torch import nn

from overread.architectures import ARCHITECTURES, build_segmenter, count_parameters
from overread.architectures.deeplab_v3_plus import AtrousPyramid, DeepLabV3Plus, DeepLabV3PlusOptions
from overread.errors import UserError
from overread.records import TrialConfig
from overread.testing.architectures import ArchitectureContract, toy_batch

SMALL = {"encoder": "resnet18", "width": 4}


def count(classes: int, **options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["deeplab_v3_plus"].build(options, in_channels=3, classes=classes))


def segmenter():
    return build_segmenter(
        TrialConfig(
            architecture="deeplab_v3_plus", options=SMALL, in_channels=1, classes=2, patch_size=(32, 32), steps=1
        )
    )


class TestDeepLabV3Plus(ArchitectureContract):
    name = "deeplab_v3_plus"
    options = SMALL
    size = (32, 48)


class TestDeepLabV3PlusFiner(ArchitectureContract):
    name = "deeplab_v3_plus"
    options = {"encoder": "resnet50", "width": 2, "output_stride": 8, "dropout": 0.0}
    losses = {"ce": 1.0, "dice": 1.0}
    size = (16, 24)
    classes = 2


def test_parameters_are_those_of_resnet_pyramid_and_decoder():
    norms = 2 * 256
    pyramid = 2 * (2048 * 256 + norms) + 3 * (9 * 2048 * 256 + norms) + 5 * 256 * 256 + norms
    decoder = 256 * 48 + 2 * 48 + 9 * (48 + 256) * 256 + norms + 9 * 256 * 256 + norms
    rest = pyramid + decoder + 256 * 2 + 2
    entry = ARCHITECTURES["deeplab_v3_plus"]
    assert entry.published_parameters() == 42_500_160 + rest == 59_339_426
    assert entry.published_parameters("deeplab_v3_plus_resnet50") == 23_508_032 + rest == 40_347_298
    assert count(21) == 59_344_309
    assert count(2, output_stride=8) == 59_339_426


@pytest.mark.parametrize(("output_stride", "rates"), [(16, (6, 12, 18)), (8, (12, 24, 36))])
def test_the_rates_follow_the_output_stride(output_stride, rates):
    network = DeepLabV3Plus(DeepLabV3PlusOptions(width=1, output_stride=output_stride), in_channels=1).eval()
    assert network.size_multiple == output_stride
    assert tuple(branch[0].dilation[0] for branch in list(network.pyramid.branches)[1:]) == rates
    skips, bottom = network.encode(torch.zeros(1, 1, 32, 64))
    assert [tuple(skip.shape) for skip in skips] == [(1, 1, 8, 16)]
    assert bottom.shape == (1, 4, 32 // output_stride, 64 // output_stride)
    assert network.decode_coarsely(skips, bottom).shape == (1, 4, 8, 16)


def test_low_level_features_have_48_channels_at_the_published_width():
    with torch.device("meta"):
        network = DeepLabV3Plus(DeepLabV3PlusOptions(), in_channels=3)
    assert network.reduce[0].weight.shape == (48, 256, 1, 1)
    assert network.decoder[0][0].weight.shape == (256, 48 + 256, 3, 3)


def test_the_atrous_pyramid_by_hand():
    pyramid = AtrousPyramid(1, 1, (2,), dropout=0.0).eval()
    for layer in pyramid.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 16.0
    expected = torch.full((4, 4), 1.0)  # the mean of the whole map
    expected[0, 0] += 16.0  # Conv1
    expected[::2, ::2] += 16.0  # Conv3 of rate 2: the places 0 or 2 away
    torch.testing.assert_close(pyramid(x)[0, 0], expected)


def test_logits_of_the_coarse_map_are_those_of_the_upsampled_one():
    built = segmenter().eval()
    images = torch.randn(2, 1, 32, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(built.logits(images), built.head(built.network(images)), atol=1e-5, rtol=1e-4)


def test_one_image_trains_and_keeps_the_statistics_that_it_cannot_give():
    built, batch = segmenter(), toy_batch((32, 32), classes=2, samples=1)
    built(batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    norm = built.network.pyramid.whole[1]
    assert norm.running_mean.abs().max() == 0
    built(toy_batch((32, 32), classes=2, samples=2))
    assert norm.running_mean.abs().max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"encoder": "v_net"}, "encoder"),
        ({"output_stride": 4}, "output_stride"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DeepLabV3PlusOptions.from_json(options)

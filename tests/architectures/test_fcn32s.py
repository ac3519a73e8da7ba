# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch
from torch import nn

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.fcn32s import FCN32s, FCN32sOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract


def count(in_channels: int, classes: int) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["fcn32s"].build({}, in_channels=in_channels, classes=classes))


def wiring(width: int = 2) -> FCN32s:
    torch.manual_seed(0)
    return FCN32s(FCN32sOptions(width=width), in_channels=1).eval()


class TestFCN32s(ArchitectureContract):
    name = "fcn32s"
    options = {"width": 4, "dropout": 0.0}
    size = (32, 64)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    network = FCN32s(FCN32sOptions(width=4, dropout=0.5), in_channels=1)
    x = torch.randn(2, 1, 64, 64)
    first, second = (network.features(x).last for _ in range(2))
    assert not torch.equal(first, second)
    network.eval()
    torch.testing.assert_close(network.features(x).last, network.features(x).last, rtol=0, atol=0)


def test_parameters_are_those_of_vgg16_and_its_classifier():
    vgg16, fc6, fc7 = 14_714_688, 512 * 7 * 7 * 4096 + 4096, 4096 * 4096 + 4096
    assert ARCHITECTURES["fcn32s"].published_parameters() == vgg16 + fc6 + fc7 + 2 * 4097 == 134_268_738
    assert count(3, 2) - 4097 == 134_264_641  # one output: the 134.3M of the fact sheet
    assert count(1, 2) == 134_268_738 - 2 * 9 * 64


def test_the_convolutions_are_those_of_vgg16():
    with torch.device("meta"):
        network = FCN32s(FCN32sOptions(), in_channels=3)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    expected = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 4096, 4096]
    assert [layer.out_channels for layer in layers] == expected
    assert [layer.kernel_size[0] for layer in layers] == [3] * 13 + [7, 1]
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


@torch.no_grad()
def test_one_pixel_for_32_and_logits_between_them_are_linear():
    network = wiring()
    x = torch.randn(1, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    assert network.map(x).shape == (1, 128, 2, 3)
    segmenter = ARCHITECTURES["fcn32s"].build({"width": 2}, in_channels=1, classes=2).eval()
    coarse = segmenter.head(segmenter.network.map(x))
    fine = segmenter.logits(x)
    assert fine.shape == (1, 2, 64, 96)
    # The middles of neighbouring coarse pixels are at 15.5 and 47.5; half way between them stands their mean.
    between = fine[0, :, 31:33, 31:33].mean((1, 2))
    torch.testing.assert_close(between, coarse[0, :, :2, :2].mean((1, 2)), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_head_may_come_before_or_after_the_upsampling():
    segmenter = ARCHITECTURES["fcn32s"].build({"width": 2}, in_channels=1, classes=2).eval()
    x = torch.randn(1, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    late = segmenter.head(segmenter.network.features(x).last)
    torch.testing.assert_close(segmenter.logits(x), late, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("options", "message"), [({"width": 0}, "width"), ({"dropout": 1.0}, "dropout")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        FCN32sOptions.from_json(options)

# ruff: noqa: RUF012  (settings of a contract suite are constants)
import pytest
import torch

from overread.architectures import ARCHITECTURES, build_segmenter, count_parameters
from overread.architectures.blocks import upsample
from overread.architectures.pspnet import PSPNet, PSPNetOptions, PyramidPooling
from overread.errors import UserError
from overread.records import TrialConfig
from overread.testing.architectures import ArchitectureContract, raised, toy_batch

SMALL = {"encoder": "resnet18", "width": 4}


def count(classes: int, losses: dict[str, float] | None = None, **options: object) -> int:
    with torch.device("meta"):
        built = ARCHITECTURES["pspnet"].build(options, in_channels=3, classes=classes, losses=losses)
    return count_parameters(built)


def segmenter(**changes: object):
    config = {"architecture": "pspnet", "options": SMALL, "in_channels": 1, "classes": 2, "patch_size": (32, 32)}
    return build_segmenter(TrialConfig(**(config | {"steps": 1} | changes)))


class TestPSPNet(ArchitectureContract):
    name = "pspnet"
    options = SMALL
    size = (24, 32)


class TestPSPNetDiceWithoutAuxiliary(ArchitectureContract):
    name = "pspnet"
    options = {"encoder": "resnet50", "width": 2, "dropout": 0.0}
    losses = {"ce": 1.0, "dice": 1.0, "auxiliary": 0.0}
    size = (16, 16)


def test_parameters_are_those_of_resnet_pyramid_and_heads():
    pyramid = 4 * (2048 * 512 + 2 * 512)
    fuse = 9 * 4096 * 512 + 2 * 512
    auxiliary = 9 * 1024 * 256 + 2 * 256 + 256 * 2 + 2
    read = 23_508_032 + pyramid + fuse + 512 * 2 + 2
    assert ARCHITECTURES["pspnet"].published_parameters() == read + auxiliary == 48_943_172
    assert count(2, losses={"auxiliary": 0.0}) == read == 46_582_850
    assert (count(19), count(19, losses={"auxiliary": 0.0})) == (48_956_262, 46_591_571)
    assert count(2, encoder="resnet101") - 48_943_172 == 42_500_160 - 23_508_032


def test_the_resnet_strides_by_8_and_dilates():
    network = PSPNet(PSPNetOptions(width=1), in_channels=1)
    assert network.encoder.strides == (2, 4, 8, 8, 8)
    assert network.size_multiple == 8
    last, third = network.eval().maps(torch.zeros(1, 1, 32, 16))
    assert (last.shape, third.shape) == ((1, 8, 4, 2), (1, 16, 4, 2))


def test_the_pyramid_by_hand():
    pyramid = PyramidPooling(4).eval()
    for level in pyramid.levels:  # each takes the first channel as it is
        level[0].weight.data = torch.tensor([1.0, 0.0, 0.0, 0.0]).reshape(1, 4, 1, 1)
        level[1].eps = 0.0
    x = torch.zeros(1, 4, 6, 6)
    x[0, 0, :, 3:] = 2.0
    x[0, 0, 0, 0] = 36.0
    found = pyramid(x)
    assert torch.equal(found[:, :4], x)
    whole, halves, thirds, sixths = found[0, 4:]
    torch.testing.assert_close(whole, torch.full((6, 6), (36 + 18 * 2) / 36))
    # 2 x 2 regions of 9 pixels: 36 / 9, 2, 0, 2; in the corners nothing is beyond the centres to interpolate with
    torch.testing.assert_close(halves[[0, 0, 5, 5], [0, 5, 0, 5]], torch.tensor([4.0, 2.0, 0.0, 2.0]))
    # 3 x 3 regions of 4 pixels: 36 / 4; the middle column has half of its pixels on the side of 2
    torch.testing.assert_close(thirds[[0, 5, 5], [0, 0, 5]], torch.tensor([9.0, 0.0, 2.0]))
    torch.testing.assert_close(sixths, x[0, 0])


def test_logits_of_the_coarse_map_are_those_of_the_upsampled_one():
    built = segmenter().eval()
    images = torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(built.logits(images), built.head(built.network(images)), atol=1e-5, rtol=1e-4)


def test_the_loss_adds_the_auxiliary_head_and_reading_does_not_use_it():
    built, batch = segmenter(losses={"auxiliary": 0.25}).eval(), toy_batch((16, 16), classes=2)
    with torch.no_grad():
        losses = built(batch)
        torch.testing.assert_close(losses["loss"], losses["ce"] + 0.25 * losses["auxiliary"])
        third = built.network.features(batch.images).deep["auxiliary"]
        log_odds = upsample(built.auxiliary(third), 8).log_softmax(1)
        expected = -log_odds.gather(1, batch.labels.long()).mean()
        torch.testing.assert_close(losses["auxiliary"], expected)
        before = built.read(batch).probabilities
        for parameter in built.auxiliary.parameters():
            parameter.fill_(torch.nan)
        assert torch.equal(built.read(batch).probabilities, before)


def test_one_image_trains_and_keeps_the_statistics_that_it_cannot_give():
    built, batch = segmenter(), toy_batch((16, 16), classes=2, samples=1)
    built(batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    norms = [level[1] for level in built.network.pyramid.levels]
    assert [norm.running_mean.abs().max().item() > 0 for norm in norms] == [False, True, True, True]


def test_the_auxiliary_head_alone_is_no_loss():
    assert "> 0" in raised(lambda: segmenter(losses={"ce": 0.0, "dice": 0.0, "auxiliary": 0.4}))
    assert ">= 0" in raised(lambda: segmenter(losses={"auxiliary": -0.4}))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0}, "width"), ({"dropout": 1.0}, "dropout"), ({"encoder": "vgg16"}, "encoder")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        PSPNetOptions.from_json(options)

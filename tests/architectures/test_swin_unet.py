import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.swin_unet import PatchExpanding, PatchMerging, Stage, SwinUNet, SwinUNetOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

SMALL = {"width": 4, "depths": [2, 1, 1, 1], "window": 3}


def count(in_channels: int = 3, classes: int = 9, **options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["swin_unet"].build(options, in_channels=in_channels, classes=classes))


class TestSwinUNet(ArchitectureContract):
    name = "swin_unet"
    options = SMALL
    size = (32, 32)


def test_parameters_are_those_of_the_released_code_and_the_bias_of_the_head():
    assert ARCHITECTURES["swin_unet"].published_parameters() == 27_168_900 + 9
    assert count(in_channels=1) == 27_168_909 - 2 * 16 * 96
    assert count(classes=4) == 27_168_909 - 5 * 97
    assert count(window=8) - count(window=7) == (15**2 - 13**2) * (4 * (3 + 6 + 12) + 2 * 24)


def test_a_stage_shifts_every_second_block():
    attentions = [block.attention for block in Stage(64, 4, 7)]
    assert [attention.shift for attention in attentions] == [0, 3, 0, 3]
    assert {attention.heads for attention in attentions} == {2}


def test_merging_takes_two_by_two_places():
    merging = PatchMerging(1)
    with torch.no_grad():
        merging.project.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1]]))
    # places (0, 1, 4, 5) have mean 2.5 and variance 17 / 4; their first and last are what is kept
    found = merging(torch.arange(8.0).reshape(1, 2, 4, 1))
    assert found.shape == (1, 1, 2, 2)
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([-2.5, 2.5]) / 4.25**0.5, atol=1e-4, rtol=0)


def test_expanding_makes_places_of_channels():
    expanding = PatchExpanding(1, 2, factor=2)
    with torch.no_grad():
        expanding.project.weight.copy_(torch.tensor([1.0, 0, 0, 1, 2, 0, 0, 2])[:, None])
    found = expanding(torch.ones(1, 1, 2, 1))
    assert found.shape == (1, 2, 4, 2)
    # a norm of two channels leaves +1 where the larger is and -1 where the smaller is
    assert found[0, :, :2, 0].round().tolist() == [[1, -1], [1, -1]]
    assert torch.equal(found[:, :, :2], found[:, :, 2:])


@pytest.mark.parametrize("size", [(32, 32), (96, 160)])
def test_halves_at_sizes_that_windows_do_not_divide(size):
    network = SwinUNet(SwinUNetOptions.from_json(SMALL), in_channels=1).eval()
    skips, bottom = network.encode(torch.randn(1, 1, *size))
    height, width = size
    assert [tuple(skip.shape[1:]) for skip in skips] == [(4 << i, height >> 2 + i, width >> 2 + i) for i in range(3)]
    assert bottom.shape == (1, network.bottom_channels, height // 32, width // 32)
    before = network.decode(skips, bottom)
    assert before.shape == (1, 4, *size)
    for level in range(3):
        changed = [skip * 2 if i == level else skip for i, skip in enumerate(skips)]
        assert (network.decode(changed, bottom) - before).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 3}, "even"),
        ({"depths": [2, 0, 2, 2]}, "depths"),
        ({"window": 1}, "window"),
        ({"mlp_ratio": 0}, "mlp"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SwinUNetOptions.from_json(options)

import math

import pytest
import torch

from overread.architectures import ARCHITECTURES
from overread.architectures.darr import DARROptions, DARRSegmenter, Jigsaw, VNet, cut
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

SMALL = {"width": 2, "depth": 2}


class TestDARR(ArchitectureContract):
    name = "darr"
    options = SMALL
    size = (4, 4, 8)


class TestVNetAlone(ArchitectureContract):
    name = "darr"
    options = SMALL | {"pieces": 1}
    size = (8, 12)


def segmenter(**options: object) -> DARRSegmenter:
    torch.manual_seed(0)
    found = ARCHITECTURES["darr"].build(SMALL | options, in_channels=1, classes=2, spatial_dims=2)
    assert isinstance(found, DARRSegmenter)
    return found.eval()


def test_parameters():
    entry = ARCHITECTURES["darr"]
    alone = entry.published_parameters("darr_v_net")
    assert alone == 45_724_114
    assert abs(alone / 45.6e6 - 1) < 0.005
    puzzle = 2 * 256 * 256 + 256 + 256 * 8 + 8
    assert entry.published_parameters() == alone + puzzle == 45_857_498


def test_pieces_are_cut_in_raster_order():
    x = torch.arange(8.0).reshape(1, 1, 2, 4)
    pieces = cut(x, 2)
    assert pieces.shape == (1, 4, 1, 1, 2)
    assert pieces.flatten(2)[0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    volume = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    assert cut(volume, 2).flatten().tolist() == list(range(8))
    assert torch.equal(cut(x, 1)[:, 0], x)


def test_the_puzzle_is_the_cross_entropy_of_the_places():
    model = segmenter()
    assert model.jigsaw is not None
    with torch.no_grad():
        last = model.jigsaw.perceptron[2]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0, 0, 0, math.log(3)]))  # all say 3, with odds of 3 to 1: one of four is right
    expected = (math.log(6 / 3) + 3 * math.log(6)) / 4
    torch.testing.assert_close(model.puzzle(torch.randn(3, 1, 8, 8)), torch.full((3,), expected))


def test_the_puzzle_is_solved_where_places_look_different():
    model = segmenter(width=4).train()
    image = torch.linspace(-1, 1, 8)[:, None] + 3 * torch.linspace(-1, 1, 8)  # brighter to the right and to the bottom
    images = image.expand(8, 1, 8, 8)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        model.puzzle(images).mean().backward()
        optimiser.step()
    assert model.puzzle(images).mean() < 0.1 * math.log(4)


def test_orders_are_permutations_random_in_training_only():
    jigsaw = Jigsaw(2, 4)
    torch.manual_seed(0)
    orders = jigsaw.order(20, torch.device("cpu"))
    assert (orders.sort(1).values == torch.arange(4)).all()
    assert len(orders.unique(dim=0)) > 5
    assert jigsaw.eval().order(2, torch.device("cpu")).tolist() == [[3, 2, 1, 0]] * 2


def test_adaptation_lowers_the_puzzle_of_its_image_and_leaves_the_original_alone():
    model = segmenter(adaptation_steps=3, adaptation_rate=0.01)
    image = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        other = model.adapted(image)
        assert other.puzzle(image) < model.puzzle(image)
        assert torch.equal(model.logits(image), other._plain(image))
        assert not torch.equal(model.logits(image), model._plain(image))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    changed = {name for name, value in other.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("network.encoder.") for name in changed)


def test_without_steps_or_puzzle_there_is_no_adaptation():
    x = torch.randn(2, 1, 8, 8)
    for model in (segmenter(adaptation_steps=0), segmenter(pieces=1)):
        assert torch.equal(model.logits(x), model._plain(x))
    assert segmenter(pieces=1).jigsaw is None


@pytest.mark.parametrize("size", [(16, 32), (16, 16, 16)])
def test_channels_and_sizes_of_the_halves(size):
    network = VNet(DARROptions(width=2), in_channels=1, spatial_dims=len(size)).eval()
    assert network.size_multiple == 16
    skips, bottom = network.encode(torch.randn(1, 1, *size))
    assert [skip.shape[1] for skip in skips] == [2, 4, 8, 16]
    assert bottom.shape == (1, 32, *(side // 16 for side in size))
    assert network.decode(skips, bottom).shape == (1, 4, *size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width"),
        ({"depth": 6}, "depth"),
        ({"pieces": 0}, "pieces"),
        ({"adaptation_steps": -1}, "adaptation"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DARROptions.from_json(options)

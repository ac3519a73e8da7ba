import pytest
import torch

from overread.architectures import ARCHITECTURES
from overread.architectures.transclaw_unet import TransClawUNet, TransClawUNetOptions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

SMALL = {"width": 4, "transformer_depth": 1, "position_grid": 2, "dropout": 0.0}


class TestTransClawUNet(ArchitectureContract):
    name = "transclaw_unet"
    options = SMALL
    size = (32, 16)


def test_parameters():
    def conv(i: int, o: int) -> int:
        return 9 * i * o + 3 * o  # with bias and norm

    c = (64, 128, 256, 512)
    encoder = sum(conv(i, o) + conv(o, o) for i, o in zip((3, *c), c, strict=False))
    tokens = 512 * 768 + 768 + 14 * 14 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
    path = sum(conv(i, o) for i, o in zip((*c[1:], 768), c, strict=True))
    ups = sum(conv(2 * o, o) for o in c[:3])
    decoder = sum(conv(n * o, o) + conv(o, o) for n, o in zip((3, 3, 3, 2), c, strict=True))
    assert encoder + tokens + path + ups + decoder + 64 * 9 + 9 == 107_110_281
    assert ARCHITECTURES["transclaw_unet"].published_parameters() == 107_110_281


def test_the_path_up_has_no_skips_and_the_decoder_reads_all_three():
    torch.manual_seed(0)
    network = TransClawUNet(TransClawUNetOptions.from_json(SMALL), in_channels=1).eval()
    skips, bottom = network.encode(torch.randn(1, 1, 32, 48))
    assert [tuple(skip.shape[1:]) for skip in skips] == [(4, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6)]
    assert bottom.shape == (1, 48, 2, 3)
    seen: dict[int, list[torch.Tensor]] = {level: [] for level in range(4)}
    for level, up in enumerate(network.path):
        up.register_forward_hook(lambda _, __, found, level=level: seen[level].append(found))
    before = network.decode(skips, bottom)
    assert before.shape == (1, 4, 32, 48)
    for level in range(4):
        changed = [skip + 1 if i == level else skip for i, skip in enumerate(skips)]
        assert (network.decode(changed, bottom) - before).abs().max() > 1e-3
    assert all(torch.equal(first, other) for first, *others in seen.values() for other in others)
    assert [tuple(found[0].shape[1:]) for found in seen.values()] == [tuple(skip.shape[1:]) for skip in skips]


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 0}, "width"), ({"transformer_depth": 0}, "depth"), ({"dropout": 1.0}, "drop")]
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TransClawUNetOptions.from_json(options)

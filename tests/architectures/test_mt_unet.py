import math

import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.mt_unet import (
    DynamicConvolution,
    ExternalAttention,
    GaussianAxialAttention,
    LocalGlobalAttention,
    MixedTransformer,
    MTUNet,
    MTUNetOptions,
)
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

SMALL = {"width": 2, "depths": [1, 1, 1], "memory": 4, "position_grid": 2}


class TestMTUNet(ArchitectureContract):
    name = "mt_unet"
    options = SMALL | {"width": 4}
    size = (32, 64)


def test_parameters_are_within_two_per_cent_of_the_released_code():
    count = ARCHITECTURES["mt_unet"].published_parameters()
    assert count == 80_337_332
    assert abs(count / 79_075_064 - 1) < 0.02


def test_parameters_of_a_module():
    d, memory, heads = 64, 16, 8
    attentions = 2 * (4 * d * d + 4 * d) + heads  # two self-attentions and a sigma per head
    others = d * 16 + 16 + 2 * d * d + d  # dynamic kernel, projection of both results
    inner = 4 * d // (4 * heads)
    external = 4 * d * d + 4 * d + 4 * d * d + d + 2 * inner * memory + memory + inner
    assert count_parameters(MixedTransformer(d, memory)) == 4 * d + attentions + others + external


def test_a_dynamic_kernel_that_is_even_gives_the_mean_of_what_is_there():
    gather = DynamicConvolution(1)
    with torch.no_grad():
        gather.kernel.weight.zero_()
        gather.kernel.bias.zero_()
    x = torch.arange(20.0).reshape(1, 4, 5, 1)
    # the second window has the last column (4, 9, 14, 19) alone: its padding does not count
    found = gather(x)
    assert found.shape == (1, 1, 2, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor([9.0, 11.5]))


def test_near_tokens_count_for_more():
    attention = GaussianAxialAttention(2, 1)
    with torch.no_grad():
        attention.sharpness.fill_(math.sqrt(math.log(2)))
        for layer in (attention.qkv, attention.out):
            layer.weight.zero_()
            layer.bias.zero_()
        attention.qkv.weight[4:] = torch.eye(2)  # values are the tokens, queries and keys zero
        attention.out.weight.copy_(torch.eye(2))
    # -D^2 ln 2 makes weights 1, 1/2, 1/16 of distances 0, 1, 2; a column of one token is itself
    x = torch.zeros(1, 1, 3, 2)
    x[0, 0, :, 0] = torch.tensor([25.0, 0.0, 50.0])
    expected = torch.tensor([(25 + 50 / 16) / 1.5625, (12.5 + 25) / 2, (25 / 16 + 50) / 1.5625]) + x[0, 0, :, 0]
    torch.testing.assert_close(attention(x)[0, 0, :, 0], expected)


def test_axial_attention_sees_its_row_and_its_column():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    GaussianAxialAttention(4, 2)(x)[0, 1, 2].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(-1) > 0
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[1], expected[:, 2] = True, True
    assert torch.equal(seen, expected)


def test_local_and_global_together_reach_windows_of_row_and_column():
    torch.manual_seed(0)
    x = torch.randn(1, 9, 9, 4, requires_grad=True)
    LocalGlobalAttention(4)(x)[0, 0, 0].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(-1) > 0
    assert seen[:4].all() and seen[:, :4].all()
    assert not seen[4:, 4:].any()


def test_external_attention_is_normalised_twice():
    attention = ExternalAttention(8, 4)
    with torch.no_grad():
        attention.keys.weight.zero_()
        attention.keys.bias.zero_()  # all scores alike: every token gets the mean of the memories
        attention.values.weight.fill_(3.0)
        attention.values.bias.zero_()
        attention.out.weight.fill_(1 / 32)
        attention.out.bias.zero_()
    torch.testing.assert_close(attention(torch.randn(2, 3, 5, 8)), torch.full((2, 3, 5, 8), 3.0))


def test_channels_and_sizes_of_the_halves():
    torch.manual_seed(0)
    network = MTUNet(MTUNetOptions.from_json(SMALL), in_channels=1).eval()
    skips, bottom = network.encode(torch.randn(1, 1, 32, 96))
    found = [tuple(skip.shape[1:]) for skip in skips]
    assert found == [(2, 32, 96), (4, 16, 48), (8, 8, 24), (8, 4, 12), (16, 2, 6)]
    assert bottom.shape == (1, 32, 1, 3)
    before = network.decode(skips, bottom)
    for level in range(5):
        changed = [skip + 1 if i == level else skip for i, skip in enumerate(skips)]
        assert (network.decode(changed, bottom) - before).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"), [({"width": 0}, "width"), ({"depths": [1, 0, 1]}, "depths"), ({"memory": 0}, "memory")]
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MTUNetOptions.from_json(options)

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from overread.architectures import count_parameters
from overread.architectures.intersection_union import (
    ANNOTATORS,
    BRANCHES,
    INTERSECTION,
    UNION,
    FeatureAwareAttention,
    IntersectionUnion,
    PositionAttention,
    feature_distance,
)
from overread.architectures.otsu import FixedQuantiser, OtsuFilter


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def joined(channels: int = 16, **settings: object) -> IntersectionUnion:
    torch.manual_seed(0)
    plain = {"constrained": True, "v1_filters": False, "distance": "per_pixel"}
    return IntersectionUnion(channels, **(plain | settings)).eval()


def test_attention_is_the_identity_at_the_start():
    attention, x = PositionAttention(16), draw(2, 16, 4, 6)
    assert torch.equal(attention(x), x)
    assert (attention.attended(x) - x).abs().max() > 0.1


def test_attention_is_the_softmax_over_all_pixels_unscaled():
    attention, x = PositionAttention(16), draw(2, 16, 4, 6)
    q, k, v = (layer(x).flatten(2) for layer in (attention.query, attention.key, attention.value))
    assert (q.shape[1], k.shape[1], v.shape[1]) == (2, 2, 16)
    weights = (q.transpose(1, 2) @ k).softmax(2)  # of every pixel over those it looks at
    expected = (v @ weights.transpose(1, 2)).reshape(x.shape)
    torch.testing.assert_close(attention.attended(x), expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        attention.gain.fill_(0.5)
    torch.testing.assert_close(attention(x), 0.5 * expected + x, atol=1e-5, rtol=1e-4)


def test_pooled_attention_looks_at_the_pooled_map():
    attention, x = PositionAttention(16, pool=2), draw(2, 16, 4, 6)
    small = F.max_pool2d(x, 2)
    assert attention.key(small).flatten(2).shape == (2, 2, 6)
    scores = attention.query(x).flatten(2).transpose(1, 2) @ attention.key(small).flatten(2)
    expected = (attention.value(small).flatten(2) @ scores.softmax(2).transpose(1, 2)).reshape(x.shape)
    torch.testing.assert_close(attention.attended(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attention_never_holds_the_scores_of_all_pairs_of_pixels(memory_format):
    # The fused kernel refuses what it cannot do: this fails where attention would fall back to the table of scores.
    x = draw(1, 32, 24, 24).to(memory_format=memory_format).requires_grad_()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        PositionAttention(32).attended(x).sum().backward()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("filtering", [OtsuFilter(), FixedQuantiser()])
def test_the_block_beside_keeps_its_input_and_adds_what_the_filter_passes(filtering):
    x = draw(1, 8, 6, 6)
    block = FeatureAwareAttention(8, filtering, beside=True)
    assert torch.equal(block(x)[:, :8], x)
    assert torch.equal(block(x)[:, 8:], filtering(x))  # attention is still the identity


def test_the_block_of_v1_adds_the_filtered_attention_with_its_gain():
    x = draw(1, 8, 6, 6)
    block = FeatureAwareAttention(8, OtsuFilter(), beside=False)
    assert torch.equal(block(x), x)
    with torch.no_grad():
        block.attention.gain.fill_(2.0)
    torch.testing.assert_close(block(x), 2 * OtsuFilter()(block.attention.attended(x)) + x)


def test_distances_by_hand():
    first = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).reshape(1, 2, 1, 2)  # (3, 4) at the left, (0, 0) at the right
    second = torch.zeros(1, 2, 1, 2)
    pixel, sample = (feature_distance(first, second, kind) for kind in ("per_pixel", "per_sample"))
    torch.testing.assert_close(pixel, torch.tensor([5 / 2**0.5, 1e-4]).reshape(1, 1, 1, 2))
    torch.testing.assert_close(sample, torch.tensor(5 / 2.0).reshape(1, 1, 1, 1))
    assert feature_distance(first.bfloat16(), second, "per_pixel").dtype == torch.float32


def test_a_distance_of_nothing_has_a_finite_slope():
    x = torch.ones(1, 4, 2, 2, requires_grad=True)
    feature_distance(x, torch.ones(1, 4, 2, 2), "per_pixel").sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("distance", ["per_pixel", "per_sample"])
def test_maps_with_the_channels_of_the_whole_weighted_by_their_distance_from_it(distance):
    module, seen = joined(distance=distance), []
    module.fuse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    whole, branches = draw(2, 16, 4, 4), {name: draw(2, 8, 4, 4, seed=i) for i, name in enumerate(BRANCHES, 1)}
    assert module(whole, branches).shape == whole.shape
    *weighted, last = seen[0].chunk(4, 1)
    assert torch.equal(last, whole)
    for found, name in zip(weighted, BRANCHES, strict=True):
        block = module.blocks[name](branches[name])
        assert block.shape == whole.shape
        length = feature_distance(block, whole, distance)
        assert length.min() >= 0
        torch.testing.assert_close(found, length * block)


def test_without_constraints_the_maps_stand_side_by_side():
    module, seen = joined(constrained=False), []
    module.fuse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    whole, branches = draw(2, 16, 4, 4), {name: draw(2, 8, 4, 4, seed=i) for i, name in enumerate(BRANCHES, 1)}
    module(whole, branches)
    assert torch.equal(seen[0], torch.cat([*(branches[name] for name in BRANCHES), whole], 1))


def test_parameters_of_the_published_modules():
    attention, fusion = 2 * (32 * 4 + 4) + 32 * 32 + 32 + 1, 64 * 64 * 9 + 64 + 128
    gabor, constrained, plain = 8 * 32 * 4 * 9, 256 * 64 * 9 + 64 + 128, 160 * 64 * 9 + 64 + 128
    assert count_parameters(joined(64)) == 3 * attention + 2 * gabor + constrained + fusion
    assert count_parameters(joined(64, constrained=False)) == 3 * attention + 2 * gabor + plain + fusion
    assert count_parameters(joined(64, v1_filters=True)) == count_parameters(joined(64)) - 2 * 8 * gabor // 9


def test_filters_by_branch():
    module, v1 = joined(), joined(v1_filters=True)
    assert [module.blocks[name].filtering.bank.shape[-1] for name in (ANNOTATORS, UNION)] == [3, 3]
    assert [v1.blocks[name].filtering.bank.shape[-1] for name in (ANNOTATORS, UNION)] == [1, 1]
    assert isinstance(module.blocks[INTERSECTION].filtering, OtsuFilter)
    assert isinstance(v1.blocks[INTERSECTION].filtering, FixedQuantiser)

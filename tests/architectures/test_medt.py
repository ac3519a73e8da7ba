import math

import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.medt import GATES, AxialAttention, MedT, MedTOptions, RelativePositions
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract, toy_batch

SMALL = {"width": 4, "groups": 2, "blocks": [1, 1, 1, 1], "patches": 2, "position_side": 32}


def count(in_channels: int = 3, **options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["medt"].build(options, in_channels=in_channels, classes=2))


def wiring(**options: object) -> MedT:
    torch.manual_seed(0)
    return MedT(MedTOptions.from_json(SMALL | options), in_channels=1).eval()


class TestMedT(ArchitectureContract):
    name = "medt"
    options = SMALL
    size = (32, 64)


def test_parameters_are_those_of_the_released_code_without_the_layers_it_never_uses():
    # A 1x1 convolution in each block of the local branch, and a second head of two maps.
    unused = sum(width**2 + width for width in (16, 32, 32, 64, 64, 64, 64, 128)) + 2 * (16 + 1)
    assert unused == 35_536 + 34
    assert ARCHITECTURES["medt"].published_parameters() == 1_560_140 - unused == 1_524_570
    assert count(in_channels=1) == 1_524_570 - 2 * 49 * (8 + 64)


def test_relative_positions_cost_two_vectors_per_offset_and_attention():
    # Two attentions at 64 pixels with 4 and two with 8 channels of offsets, two at 32 pixels with 8.
    grown = 2 * (4 + 8) * 2 * 64 + 2 * 8 * 2 * 32
    assert count(position_side=256) == 1_524_570 + grown


def test_frozen_gates_are_no_parameters_but_stay_in_the_weights():
    assert count(frozen_gates=True) == 1_524_570 - 6 * 4
    frozen, learned = wiring(frozen_gates=True), wiring()
    gates = [name for name, _ in learned.named_parameters() if name.endswith("gates")]
    assert len(gates) == 4  # two attentions in each of two blocks, none in the local branch
    assert all(name.startswith("whole.") for name in gates)
    frozen.load_state_dict(learned.state_dict())
    assert frozen.state_dict()[gates[0]].tolist() == pytest.approx(GATES)
    batch = toy_batch((32, 32))
    segmenter = ARCHITECTURES["medt"].build(SMALL | {"frozen_gates": True}, in_channels=1, classes=3)
    segmenter(batch)["loss"].backward()
    assert all(parameter.grad is not None for parameter in segmenter.parameters())


def test_relative_positions_are_offsets_and_stretch():
    positions = RelativePositions(2, side=3)
    with torch.no_grad():
        positions.offsets.copy_(torch.arange(-2.0, 3.0).expand(1, 4, 5))
    offsets = torch.arange(5.0) - torch.arange(5.0)[:, None]  # j - i
    q, k, v = positions(3)
    assert (q.shape, k.shape, v.shape) == ((1, 3, 3), (1, 3, 3), (2, 3, 3))
    assert torch.equal(q[0], offsets[:3, :3])
    torch.testing.assert_close(positions(5)[2][1], offsets / 2)
    torch.testing.assert_close(positions(2)[1][0], 2 * offsets[:2, :2])


def test_attention_is_the_papers_equation():
    torch.manual_seed(0)
    options = MedTOptions(width=2, groups=1)
    attention = AxialAttention(options, 2, axis=3, side=3).eval()  # norms are the identity but for epsilon
    x = torch.randn(1, 2, 1, 3)
    with torch.no_grad():
        attention.gates.copy_(torch.tensor([0.3, 0.7, 0.2, 0.9]))
        found = attention(x)[0, :, 0]
        q, k, *v = (attention.qkv.weight[:, :, 0] @ x[0, :, 0]).tolist()
        r_q, r_k, *r_v = attention.positions.offsets[0].tolist()
    for i in range(3):
        at = [2 + j - i for j in range(3)]
        scores = [q[i] * k[j] + 0.3 * q[i] * r_q[at[j]] + 0.7 * k[j] * r_k[at[j]] for j in range(3)]
        weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        for c in range(2):
            expected = sum(weights[j] * (0.9 * v[c][j] + 0.2 * r_v[c][at[j]]) for j in range(3))
            assert found[c, i].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("axis", "side"), [(2, None), (2, 5), (3, None), (3, 5)])
def test_attention_sees_one_line(axis, side):
    torch.manual_seed(0)
    attention = AxialAttention(MedTOptions(width=4, groups=2), 4, axis=axis, side=side).eval()
    x = torch.randn(1, 4, 6, 5)
    other = x.clone()
    other[0, :, 2, 3] += 1
    changed = (attention(x) - attention(other)).abs().amax((0, 1)) > 1e-6
    expected = torch.zeros(6, 5, dtype=torch.bool)
    expected[(slice(None), 3) if axis == 2 else (2, slice(None))] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("whole", [False, True])
def test_only_the_global_branch_sees_beyond_a_patch(whole):
    network = wiring()
    with torch.no_grad():
        if not whole:  # its last layer gives nothing
            network.whole.decoder[0].weight.zero_()
            network.whole.decoder[0].bias.zero_()
        x = torch.randn(1, 1, 32, 64)
        other = x.clone()
        other[..., :16, :32] += 1  # patch 0 of 2 x 2
        changed = (network(x) - network(other)).abs().amax((0, 1)) > 1e-6
    assert changed[:16, :32].float().mean() > 0.5
    beyond = torch.ones(32, 64, dtype=torch.bool)
    beyond[:17, :33] = False  # the last 3x3 convolution reaches one pixel
    assert changed[beyond].any().item() is whole


def test_the_published_patches_take_sizes_down_to_64_and_a_batch_of_one():
    network = wiring(patches=4, blocks=[1, 2, 4, 1], position_side=128)
    assert network.size_multiple == 64
    assert network.train()(torch.randn(1, 1, 64, 64)).shape == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 8}, r"multiple of 2 \* groups, but got 8 and 8"),
        ({"patches": 0}, "patches"),
        ({"blocks": [1, 2, 0, 1]}, "blocks"),
        ({"blocks": [1, 2]}, "blocks"),
        ({"position_side": 30}, "multiple of 4, but got 30"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MedTOptions.from_json(options)

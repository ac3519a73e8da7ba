# ruff: noqa: RUF012  (settings of a contract suite are constants)
import math

import pytest
import torch

from overread.architectures import ARCHITECTURES, build_segmenter
from overread.architectures.heads import softmax_losses
from overread.architectures.trans_cascade import (
    ChannelAttention,
    SpatialAttention,
    TransCascade,
    TransCascadeOptions,
)
from overread.errors import UserError
from overread.testing.architectures import ArchitectureContract

SMALL = {"width": 4, "units": [1, 1, 1], "transformer_depth": 1, "position_grid": 2, "dropout": 0.0}


class TestTransCascade(ArchitectureContract):
    name = "trans_cascade"
    options = SMALL
    losses = {"ce": 1.0, "dice": 0.0}
    size = (32, 48)

    def test_the_loss_is_the_sum_of_the_heads_losses_and_their_sum_is_read(self):
        segmenter, batch = self.build(losses={}).eval(), self.batch()
        with torch.no_grad():
            logits = segmenter.all_logits(batch.images)
            targets = batch.soft_targets(self.classes)
            terms = [softmax_losses(each, targets, segmenter.loss_weights) for each in logits]
            found = segmenter(batch)
            read = segmenter.read(batch).probabilities
        assert [tuple(each.shape) for each in logits] == [(3, 3, 32, 48)] * 4
        torch.testing.assert_close(found["loss"], sum(term["loss"] for term in terms))
        torch.testing.assert_close(found["loss"], 0.3 * found["ce"] + 0.7 * found["dice"])
        torch.testing.assert_close(read, (logits[0] + logits[1] + logits[2] + logits[3]).softmax(1))


def test_parameters_are_those_of_the_released_code_without_its_grey_adapter():
    adapter = 3 + 3 + 2 * 3  # a 1x1 convolution from one channel to three with its biases, and a norm
    assert ARCHITECTURES["trans_cascade"].published_parameters() == 123_487_739 - adapter


def test_levels_and_what_each_sees():
    torch.manual_seed(0)
    network = TransCascade(TransCascadeOptions.from_json(SMALL), in_channels=1).eval()
    x = torch.randn(1, 1, 32, 48)
    skips, bottom = network.encode(x)
    before = network.levels(skips, bottom)
    assert [tuple(level.shape[1:]) for level in before] == [(48, 2, 3), (32, 4, 6), (16, 8, 12), (4, 16, 24)]
    for index in range(3):  # finest first: of the four levels all from that of the skip on depend on it
        changed = [skip + 1 if i == index else skip for i, skip in enumerate(skips)]
        differs = [not torch.equal(a, b) for a, b in zip(network.levels(changed, bottom), before, strict=True)]
        assert differs == [level >= 3 - index for level in range(4)]
    deep = network.features(x).deep
    assert list(deep) == ["stride_16", "stride_8", "stride_4", "stride_2"]
    assert torch.equal(deep["stride_4"], before[2])


def test_channel_attention_by_hand():
    attention = ChannelAttention(2)  # one channel inside
    with torch.no_grad():
        attention.perceptron[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1))
        attention.perceptron[2].weight.copy_(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1) * math.log(3))
    x = torch.tensor([[2.0, 2.0], [3.0, 1.0]]).reshape(1, 2, 1, 2)
    # means (2, 2) give 0, maxima (2, 3) give relu(-1) = 0: both channels times 1/2
    torch.testing.assert_close(attention(x), x / 2)
    # exchanged: means (2, 2) give 0, maxima (3, 2) give 1: the first channel times sigmoid(ln 3) = 3/4
    torch.testing.assert_close(attention(x.flip(1)), x.flip(1) * torch.tensor([0.75, 0.5]).reshape(1, 2, 1, 1))


def test_spatial_attention_by_hand():
    attention = SpatialAttention()
    with torch.no_grad():
        attention.convolution.weight.zero_()
        attention.convolution.weight[0, 1, 3, 3] = math.log(3)  # of the maximum, at its own place
    x = torch.tensor([[1.0, 0.0], [-1.0, -2.0]]).reshape(1, 2, 1, 2)
    torch.testing.assert_close(attention(x), x * torch.tensor([0.75, 0.5]))


def test_the_spatial_attention_is_one_for_all_levels():
    config = TestTransCascade().config()
    names = [name for name, _ in build_segmenter(config).named_parameters() if "spatial_attention" in name]
    assert names == ["network.spatial_attention.convolution.weight"]


@pytest.mark.parametrize(("options", "message"), [({"width": 3}, "width"), ({"dropout": -0.1}, "dropout")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TransCascadeOptions.from_json(options)

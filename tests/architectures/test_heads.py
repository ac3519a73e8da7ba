import math

import pytest
import torch
from torch import nn

from overread.architectures.contract import Features, Network
from overread.architectures.heads import (
    SoftmaxSegmenter,
    check_weights,
    relation_classes,
    sigmoid_losses,
    softmax_losses,
    start_from_prior,
    with_background,
)
from overread.errors import UserError
from overread.records import Batch
from overread.testing.architectures import toy_batch


class Identity(Network):
    """A network that returns its input."""

    in_channels = feature_channels = 2
    spatial_dims, size_multiple = 2, 1

    def features(self, x, variant=None):
        return Features(x)


def test_background_is_the_product_of_the_complements_renormalised():
    found = with_background(torch.tensor([0.5, 0.2]).reshape(1, 2, 1))
    # background 0.5 * 0.8 = 0.4; sum 0.4 + 0.5 + 0.2 = 1.1
    assert found.flatten().tolist() == pytest.approx([0.4 / 1.1, 0.5 / 1.1, 0.2 / 1.1])
    assert with_background(torch.tensor([[[0.3]]])).flatten().tolist() == pytest.approx([0.7, 0.3])
    assert with_background(torch.ones(1, 2, 1)).flatten().tolist() == pytest.approx([0.0, 0.5, 0.5])


@pytest.mark.parametrize(
    ("marks", "read"),
    [
        ((0.42, 0.42), 0),  # the product of the complements would be 0.34
        ((0.49, 0.1), 0),
        ((0.51, 0.49), 1),
        ((0.1, 0.51), 2),
        ((0.9, 0.8), 1),  # the second is lost
    ],
)
def test_relations_are_read_above_one_half(marks: tuple[float, float], read: int) -> None:
    p = torch.tensor(marks)
    found = relation_classes(p.logit().reshape(1, 2, 1)).flatten()
    expected = torch.tensor([1 - max(marks), *marks])
    torch.testing.assert_close(found, expected / expected.sum())
    assert found.argmax() == read


def test_a_relation_of_one_class_is_its_sigmoid():
    logits = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0]).reshape(1, 1, 5)
    torch.testing.assert_close(relation_classes(logits), with_background(logits.sigmoid()))
    assert relation_classes(logits)[0, 0, 4].log() == pytest.approx(-30)  # where 1 - sigmoid is 0


def test_softmax_terms_are_weighted_and_unused_ones_left_out():
    logits, targets = torch.zeros(1, 2, 1), torch.tensor([0.0, 1.0]).reshape(1, 2, 1)
    both = softmax_losses(logits, targets, {"ce": 2.0, "dice": 3.0})
    dice = 1 - (2 * 0.5 + 1) / (0.5 + 1 + 1)
    assert both["dice"].item() == pytest.approx(dice)
    assert both["loss"].item() == pytest.approx(2 * math.log(2) + 3 * dice)
    assert set(softmax_losses(logits, targets, {"ce": 1.0, "dice": 0.0})) == {"loss", "ce"}


def test_dice_over_all_classes_by_hand():
    logits, targets = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1), torch.tensor([0.0, 1.0]).reshape(1, 2, 1)
    found = softmax_losses(logits, targets, {"ce": 0.0, "dice_all": 1.0, "dice_squared": 2.0})
    # probabilities 1/4 and 3/4; the background overlaps nowhere: its loss is 1 but for 1e-5
    assert found["dice_all"].item() == pytest.approx((1 + 1 - 1.5 / 1.75) / 2, abs=1e-4)
    assert found["dice_squared"].item() == pytest.approx((1 + 1 - 1.5 / (1 + 9 / 16)) / 2, abs=1e-4)
    assert found["loss"].item() == pytest.approx(found["dice_all"].item() + 2 * found["dice_squared"].item())


def test_sigmoid_terms_by_hand():
    logits, targets = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    found = sigmoid_losses(logits, targets, {"focal": 0.5, "dice": 1.0, "lovasz": 0.5})
    focal, dice, lovasz = 0.25 * 0.25 * math.log(2), 1 - 2 / 2.5, 1.0
    assert found["loss"].item() == pytest.approx(0.5 * focal + dice + 0.5 * lovasz)


@pytest.mark.parametrize("weights", [{"ce": 0.0, "dice": 0.0}, {"ce": 1.0, "dice": -1.0}])
def test_weights_that_cannot_train_are_refused(weights):
    with pytest.raises(UserError, match="loss weights must be >= 0"):
        check_weights(weights)


def test_any_network_becomes_a_segmenter():
    segmenter = SoftmaxSegmenter(Identity(), classes=3)
    batch: Batch = toy_batch((4, 4), channels=2)
    assert segmenter.logits(batch.images).shape == (3, 3, 4, 4)
    segmenter(batch)["loss"].backward()
    assert segmenter.head.weight.grad is not None
    torch.testing.assert_close(segmenter.read(batch).probabilities.sum(1), torch.ones(3, 4, 4))


@pytest.mark.parametrize(("outputs", "classes"), [(3, 3), (2, 3), (1, 2)])
def test_heads_start_from_rare_foreground(outputs: int, classes: int) -> None:
    head = start_from_prior(nn.Conv2d(4, outputs, 1), classes)
    logits = head(torch.zeros(1, 4, 1, 1))[0, :, 0, 0]
    share = logits.softmax(0)[1:] if outputs == classes else logits.sigmoid()
    torch.testing.assert_close(share, torch.full((classes - 1,), 0.05 / (classes - 1)))

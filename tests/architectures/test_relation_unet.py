# ruff: noqa: RUF012  (settings of a contract suite are constants)
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import overread.architectures.relation_unet as module
from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.relation_unet import HEADS, RelationUNetSegmenter, relation_targets
from overread.confidence.scores import relation_scores
from overread.ensemble.reader import class_ids
from overread.errors import UserError
from overread.records import Batch, TrialConfig
from overread.testing.architectures import ArchitectureContract, toy_batch
from overread.training.inference import predict_volume

SMALL = {"width": 4, "backbone_options": {"depth": 2}}
TINY = {  # what a width of 4 needs, or what is quicker
    "medt": {"groups": 2},
    "unetmer": {"scales": [1], "pools": 2, "transformer_depth": 1, "heads": 2, "position_grid": 2},
}


class TestRelationUNet(ArchitectureContract):
    name = "relation_unet"
    options = {"width": 4, "backbone_options": {"depth": 3}}
    size = (16, 24)


class TestRelationUNetOfTwoClasses(ArchitectureContract):
    name = "relation_unet"
    options = SMALL
    losses = {"s1": 1.0, "possible": 0.5}
    size = (8, 8)
    classes = 2


class TestRelationUNetVolumes(ArchitectureContract):
    name = "relation_unet"
    options = SMALL
    size = (4, 8, 6)
    in_channels = 1


class TestRelationUNetmer(ArchitectureContract):
    name = "relation_unet"
    options = {"backbone": "unetmer", "width": 4, "backbone_options": TINY["unetmer"]}
    size = (8, 12)


class TestRelationUNetSharp(ArchitectureContract):
    name = "relation_unet"
    options = {"backbone": "unet_sharp", "width": 4, "backbone_options": {"level": 2}}
    size = (8, 12)


def build(classes: int = 2, in_channels: int = 1, losses=None, **options) -> RelationUNetSegmenter:
    torch.manual_seed(0)
    built = ARCHITECTURES["relation_unet"].build(
        SMALL | options, in_channels=in_channels, classes=classes, losses=losses
    )
    assert isinstance(built, RelationUNetSegmenter)
    return built


def labelled(labels: list[list[int]], partner: list[list[int]] | None = None) -> Batch:
    """Return one image of 2 x 2 labels by one or more annotators, with a partner."""
    ids = torch.tensor(labels, dtype=torch.uint8).reshape(1, -1, 2, 2)
    images = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(len(labels)))
    other = None if partner is None else labelled(partner)
    return Batch(images=images, labels=ids, valid=torch.ones(1, len(labels), dtype=torch.bool), partner=other)


@pytest.mark.parametrize(("channels", "parameters"), [(1, 31_043_400), (3, 31_045_704), (4, 31_046_856)])
def test_parameters_are_those_of_the_fact_sheet(channels, parameters):
    with torch.device("meta"):
        assert count_parameters(ARCHITECTURES["relation_unet"].build({}, in_channels=channels, classes=2)) == parameters
    # Beside a grey U-Net: more channels in the first layer, three more heads.
    assert parameters == 31_042_434 + (2 * channels - 1) * 9 * 64 + 3 * (64 * 2 + 2)


def test_relations_of_masks_are_union_and_intersection():
    first, second = torch.tensor([0.0, 1, 1, 0]), torch.tensor([0.0, 0, 1, 1])
    found = relation_targets(first, second)
    assert found["possible"].tolist() == [0, 1, 1, 1]
    assert found["consensus"].tolist() == [0, 0, 1, 0]


def test_relations_of_soft_labels_keep_the_sum_the_order_and_reflexivity():
    first, second = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    found = relation_targets(first, second)
    torch.testing.assert_close(found["possible"] + found["consensus"], first + second)
    assert (found["consensus"] <= found["possible"]).all()
    itself = relation_targets(first, first)
    assert torch.equal(itself["possible"], first)
    assert torch.equal(itself["consensus"], first)


def test_targets_of_two_classes_are_shares_of_both():
    first = labelled([[0, 1, 1, 0], [0, 1, 0, 0]]).soft_targets(2)  # two annotators
    second = labelled([[0, 0, 1, 1]]).soft_targets(2)
    found = build().targets(first, second)
    assert found["s1"][0, 1].flatten().tolist() == [0, 1, 0.5, 0]
    assert found["possible"][0, 1].flatten().tolist() == [0, 1, 1, 1]
    assert found["consensus"][0, 1].flatten().tolist() == [0, 0, 0.5, 0]
    assert all(torch.equal(target.sum(1), torch.ones(1, 2, 2)) for target in found.values())


def test_relations_of_several_classes_are_formed_per_class():
    first, second = labelled([[0, 1, 1, 2]]).soft_targets(3), labelled([[0, 0, 1, 1]]).soft_targets(3)
    found = build(classes=3).targets(first, second)
    # the last voxel is possibly 1 and possibly 2
    assert found["possible"].flatten(2).tolist() == [[[0, 1, 1, 1], [0, 0, 0, 1]]]
    assert found["consensus"].flatten(2).tolist() == [[[0, 0, 1, 0], [0, 0, 0, 0]]]
    assert found["s2"].flatten(2).tolist() == [[[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]]


def constant(segmenter: RelationUNetSegmenter, **biases: list[float]) -> RelationUNetSegmenter:
    """Let every head give its bias everywhere; in evaluation mode, as one pixel has no statistics."""
    for name, head in segmenter.heads.items():
        nn.init.zeros_(head.weight)
        head.bias.data = torch.tensor(biases[name])
    return segmenter.eval()


def test_loss_of_two_classes_by_hand():
    segmenter = constant(
        build(),
        s1=[0.0, math.log(3)],  # foreground 3/4
        s2=[0.0, 0.0],  # 1/2
        possible=[math.log(4), 0.0],  # 1/5
        consensus=[math.log(9), 0.0],  # 1/10
    )
    losses = segmenter(labelled([[1, 1, 0, 0]], [[1, 0, 0, 0]]))
    expected = {
        "s1": -(math.log(3 / 4) + math.log(1 / 4)) / 2,
        "s2": math.log(2),
        "possible": -(math.log(1 / 5) + math.log(4 / 5)) / 2,  # two of four voxels
        "consensus": -(math.log(1 / 10) + 3 * math.log(9 / 10)) / 4,  # one of four
    }
    assert {name: losses[name].item() for name in expected} == pytest.approx(expected)
    assert losses["loss"].item() == pytest.approx(sum(expected.values()) / 4)


def test_loss_of_three_classes_by_hand():
    segmenter = constant(
        build(classes=3, losses={"s1": 0, "s2": 0, "possible": 2, "consensus": 1}),
        s1=[0.0, 0.0, 0.0],
        s2=[0.0, 0.0, 0.0],
        possible=[0.0, math.log(3)],  # sigmoids 1/2 and 3/4
        consensus=[0.0, 0.0],
    )
    losses = segmenter(labelled([[0, 1, 1, 2]], [[0, 0, 1, 1]]))
    # class 2 is possible in one voxel of four
    possible = (math.log(2) - (math.log(3 / 4) + 3 * math.log(1 / 4)) / 4) / 2
    assert losses["s1"].item() == losses["s2"].item() == pytest.approx(math.log(3))
    assert losses["possible"].item() == pytest.approx(possible)
    assert losses["loss"].item() == pytest.approx(2 * possible + math.log(2))


def test_the_published_loss_is_the_mean_of_the_heads():
    assert build().loss_weights == dict.fromkeys(HEADS, 0.25)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("head", HEADS)
def test_a_head_shares_all_but_its_own_weights(head, classes):
    segmenter = build(classes=classes, losses=dict.fromkeys(HEADS, 0.0) | {head: 1.0})
    segmenter(toy_batch((8, 8), classes=classes, needs=segmenter.needs))["loss"].backward()
    moved = {name: parameter.grad.abs().sum() > 0 for name, parameter in segmenter.heads.named_parameters()}
    assert moved == {f"{name}.{part}": name == head for name in HEADS for part in ("weight", "bias")}
    assert sum(bool(p.grad.abs().sum() > 0) for p in segmenter.network.parameters()) > 10


def test_the_pair_goes_in_as_channels_the_image_first():
    segmenter, seen = build(in_channels=2), []
    segmenter.network.encoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = toy_batch((8, 8), channels=2, classes=2, needs=segmenter.needs)
    segmenter(batch)
    segmenter.read(batch)
    trained, read = seen
    assert torch.equal(trained, torch.cat([batch.images, batch.partner.images], 1))
    assert torch.equal(read, torch.cat([batch.images, batch.images], 1))


def test_training_needs_pairs():
    segmenter = build()
    assert segmenter.needs.pairs
    with pytest.raises(UserError, match="must have a partner"):
        segmenter(toy_batch((8, 8), classes=2))


@torch.no_grad()
@pytest.mark.parametrize("classes", [2, 3])
def test_main_is_the_mean_of_both_masks(classes):
    readings = build(classes=classes).eval().read(toy_batch((8, 8), classes=classes))
    others = dict(readings.alternatives())
    assert list(others) == ["s1", "s2", "possible", "consensus"]
    torch.testing.assert_close(readings.probabilities, (others["s1"] + others["s2"]) / 2)
    assert not torch.allclose(others["s1"], others["s2"])


@torch.no_grad()
def test_sigmoid_relations_are_marked_above_one_half():
    possible, consensus = [math.log(3), 0.0], [-math.log(3 / 2)] * 2  # 3/4 and 1/2; 2/5 twice
    segmenter = constant(build(classes=3), s1=[0.0] * 3, s2=[0.0] * 3, possible=possible, consensus=consensus)
    found = {n: p[0, :, 0, 0] for n, p in segmenter.read(toy_batch((2, 2))).alternatives()}
    torch.testing.assert_close(found["possible"], torch.tensor([1 / 4, 3 / 4, 1 / 2]) / (3 / 2))
    torch.testing.assert_close(found["consensus"], torch.tensor([3 / 5, 2 / 5, 2 / 5]) / (7 / 5))


@torch.no_grad()
def test_confidence_is_1_where_the_relations_agree_and_within_0_and_1_otherwise():
    segmenter, batch = build().eval(), toy_batch((8, 8), classes=2)

    def score() -> float | None:
        readings = dict(segmenter.read(batch).alternatives())
        masks = ((name, class_ids(p.numpy().swapaxes(0, 1))) for name, p in readings.items())
        return relation_scores(segmenter.relation_sets(), masks, (3, 8, 8), 2)["relation_unet_c"]

    for name in HEADS:
        segmenter.heads[name].bias.data.zero_()  # about half of the voxels
    differing = score()
    assert differing is not None
    assert 0 <= differing < 1
    segmenter.heads["consensus"].load_state_dict(segmenter.heads["possible"].state_dict())
    assert score() == 1


def anchored() -> tuple[RelationUNetSegmenter, Batch, Batch]:
    return build(classes=3).eval(), toy_batch((8, 8), samples=2), toy_batch((8, 8), samples=5, seed=3)


@torch.no_grad()
@pytest.mark.parametrize("pairs", [1, 6, 16])  # 1, 3 and 5 anchors at once
def test_anchors_are_averaged_in_chunks_that_bound_the_memory(pairs, monkeypatch):
    segmenter, batch, anchors = anchored()
    one_by_one = [segmenter.logits(batch.images, a.expand_as(batch.images))["s1"].softmax(1) for a in anchors.images]
    monkeypatch.setattr(module, "PAIRS", pairs)
    sizes: list[int] = []
    segmenter.network.encoder[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    readings = segmenter.read(batch, anchors=anchors)
    torch.testing.assert_close(readings.probabilities, torch.stack(one_by_one).mean(0))
    assert sum(sizes) == 5 * 2
    assert max(sizes) == max(2, min(pairs, 10))
    others = dict(readings.alternatives())
    assert list(others) == [f"anchor_{i}" for i in (1, 2, 3, 4, 5)]
    torch.testing.assert_close(torch.stack(list(others.values())), torch.stack(one_by_one))


@torch.no_grad()
def test_an_anchor_that_is_the_image_gives_its_own_mask():
    segmenter, batch, _ = anchored()
    one = batch.map(images=lambda images: images[:1])
    expected = dict(segmenter.read(one).alternatives())["s1"]
    torch.testing.assert_close(segmenter.read(one, anchors=one).probabilities, expected)


def test_wrong_anchors_are_refused():
    segmenter, batch, _ = anchored()
    for shape in [(1, 1, 8, 10), (2, 2, 8, 8), (0, 1, 8, 8)]:
        with pytest.raises(UserError, match=r"\(1, 8, 8\), the channels and sizes .* but got"):
            segmenter.read(batch, anchors=replace(batch, images=torch.zeros(shape)))


def test_a_case_is_read_with_anchors_of_the_window():
    config = TrialConfig(
        architecture="relation_unet", options=SMALL, in_channels=1, classes=3, patch_size=(8, 8), batch_size=2, steps=1
    )
    segmenter, batch, anchors = anchored()
    slices = batch.images.transpose(0, 1).numpy()
    found = predict_volume(segmenter, slices, config, None, "cpu", anchors=anchors)
    with torch.no_grad():
        expected = segmenter.read(batch, anchors=anchors).probabilities
    np.testing.assert_allclose(found, expected.transpose(0, 1).numpy(), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if ARCHITECTURES[name].network is not None])
def test_any_network_carries_the_heads(name):
    options = {"backbone": name, "width": 4, "backbone_options": TINY.get(name, {})}
    segmenter = build(classes=3, **options)
    assert count_parameters(segmenter.heads) == (2 * 3 + 2 * 2) * (segmenter.network.feature_channels + 1)
    side = segmenter.needs.size_multiple
    batch = toy_batch((side, 2 * side), samples=2, needs=segmenter.needs)
    loss = segmenter(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert [name for name, p in segmenter.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.no_grad():
        assert segmenter.eval().read(batch).probabilities.shape == (2, 3, side, 2 * side)

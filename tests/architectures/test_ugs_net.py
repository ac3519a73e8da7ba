# ruff: noqa: RUF012  (settings of a contract suite are constants)
from dataclasses import replace

import numpy as np
import pytest
import torch

from overread.architectures import ARCHITECTURES, count_parameters
from overread.architectures.annotation_targets import annotation_targets
from overread.architectures.ugs_net import (
    UGSNetOptions,
    UGSNetSegmenter,
    multi_confidence_mask,
    true_multi_confidence_mask,
)
from overread.confidence.scores import SCORES
from overread.errors import UserError
from overread.losses import binary_cross_entropy
from overread.records import MAIN, Batch
from overread.testing.architectures import ArchitectureContract, toy_batch

SMALL = {"width": 8, "backbone_options": {"depth": 2}}
V1 = {"iucm": False, "phi_a": False, "phi_b": False, "v1_compat": True}


def count(in_channels: int, classes: int = 2, **options: object) -> int:
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES["ugs_net"].build(options, in_channels=in_channels, classes=classes))


def build(classes: int = 2, losses: dict[str, float] | None = None, **options: object) -> UGSNetSegmenter:
    torch.manual_seed(0)
    built = ARCHITECTURES["ugs_net"].build(SMALL | options, in_channels=1, classes=classes, losses=losses)
    assert isinstance(built, UGSNetSegmenter)
    return built.eval()


def annotated(annotators: int = 3, classes: int = 2) -> Batch:
    return toy_batch((16, 16), classes=classes, annotators=annotators)


class TestUGSNet(ArchitectureContract):
    name = "ugs_net"
    options = SMALL
    size = (16, 24)


class TestUGSNetV1(ArchitectureContract):
    name = "ugs_net"
    options = SMALL | V1
    losses = {"phi_a": 0.0}
    size = (8, 16)
    classes = 2


class TestUGSNetPerSampleOverUNetPlusPlus(ArchitectureContract):
    name = "ugs_net"
    options = SMALL | {
        "backbone": "unet_plus_plus",
        "distance": "per_sample",
        "phi_b": False,
        "attention_pool": 4,
        "width": 4,
    }
    size = (16, 16)
    classes = 4


def test_parameters_are_those_of_the_fact_sheet():
    entry = ARCHITECTURES["ugs_net"]
    assert entry.published_parameters() == count(1) == 35_140_203
    assert count(3) == 35_141_355
    v1 = {f"ugs_net{name}": 35_069_675 for name in ("_v1", "_phi_a", "_phi_b", "_phi_ab")}
    counts = {"ugs_net": 35_140_203, "ugs_net_iucm": 35_141_355, **v1}
    assert {name: entry.published_parameters(name) for name in entry.settings} == counts


def test_every_further_class_has_a_map_at_every_head():
    assert count(1, classes=4) == 35_140_203 + 2 * (3 * 33 + 65)


def test_the_settings_of_the_ablations():
    found = {
        name: UGSNetOptions.from_json(published.options)
        for name, published in ARCHITECTURES["ugs_net"].settings.items()
    }
    switches = {name: (options.iucm, options.phi_a, options.phi_b) for name, options in found.items()}
    assert switches == {
        "ugs_net": (True, True, True),
        "ugs_net_v1": (False, False, False),
        "ugs_net_phi_a": (False, True, False),
        "ugs_net_phi_b": (False, False, True),
        "ugs_net_phi_ab": (False, True, True),
        "ugs_net_iucm": (True, False, False),
    }


@torch.no_grad()
def test_the_loss_of_the_paper():
    segmenter, batch = build(), annotated()
    logits, truth = segmenter.logits(batch.images), annotation_targets(batch, 2)
    each = [(batch.labels[:, j : j + 1] == 1).float() for j in range(3)]
    assert all(mask.flatten(1).any(1).all() for mask in each)

    def over_annotators(name):
        return torch.stack([binary_cross_entropy(logits[name], mask).mean() for mask in each]).mean()

    mcm = binary_cross_entropy(logits["union"], truth.union) + binary_cross_entropy(
        logits["intersection"], truth.intersection
    )
    losses = segmenter(batch)
    torch.testing.assert_close(losses["mcm"], mcm.mean())
    torch.testing.assert_close(losses["phi_a"], over_annotators("annotators"))
    torch.testing.assert_close(losses["phi_b"], over_annotators(MAIN))
    torch.testing.assert_close(losses["loss"], 0.5 * losses["mcm"] + 0.5 * losses["phi_a"] + losses["phi_b"])


@torch.no_grad()
def test_without_iucm_and_phi_it_is_the_loss_of_v1():
    segmenter, batch = build(**V1), annotated()
    logits = segmenter.logits(batch.images)
    marks = batch.labels == 1
    label_1, union, intersection = marks[:, :1].float(), marks.any(1, True).float(), marks.all(1, True).float()
    expected = (
        binary_cross_entropy(logits[MAIN], label_1)
        + 0.5 * binary_cross_entropy(logits["intersection"], intersection)
        + 0.5 * binary_cross_entropy(logits["union"], union)
        + 0.5 * binary_cross_entropy(logits["annotators"], label_1)
    ).mean()
    torch.testing.assert_close(segmenter(batch)["loss"], expected)


@torch.no_grad()
@pytest.mark.parametrize(("switch", "term"), [("phi_a", "phi_a"), ("phi_b", "phi_b")])
def test_each_phi_switches_one_term(switch, term):
    batch = annotated()
    on, off = build(**V1 | {switch: True})(batch), build(**V1)(batch)
    assert {name for name in on if not torch.equal(on[name], off[name])} == {term, "loss"}


@torch.no_grad()
def test_an_empty_annotation_is_none():
    segmenter, batch = build(), annotated()
    empty = replace(batch, labels=torch.cat([batch.labels[:, :2], torch.zeros_like(batch.labels[:, 2:])], 1))
    without = replace(batch, labels=batch.labels[:, :2], valid=batch.valid[:, :2])
    torch.testing.assert_close(segmenter(empty)["loss"], segmenter(without)["loss"])
    assert not torch.allclose(segmenter(batch)["loss"], segmenter(without)["loss"])


def test_every_head_gets_a_gradient_when_its_term_weighs_nothing():
    segmenter = build(losses={"mcm": 0.0, "phi_a": 0.0})
    segmenter(annotated())["loss"].backward()
    for name, head in segmenter.heads.items():
        assert (head.weight.grad.abs().max() > 0) == (name == MAIN)


@torch.no_grad()
def test_what_is_read():
    segmenter, batch = build(classes=3), annotated(classes=3)
    readings, logits = segmenter.read(batch), segmenter.logits(batch.images)
    found = dict(readings.alternatives())
    assert list(found) == ["annotators", "union", "intersection"]
    for name, probabilities in {MAIN: readings.probabilities, **found}.items():
        p = logits[name].sigmoid()
        torch.testing.assert_close(probabilities[:, 1], p[:, 0] / (1 - p.amax(1) + p.sum(1)))
        assert torch.equal(probabilities.argmax(1) > 0, (p > 0.5).any(1))


@torch.no_grad()
def test_the_probability_of_one_class_is_the_sigmoid():
    segmenter, batch = build(), annotated()
    union = dict(segmenter.read(batch).alternatives())["union"]
    torch.testing.assert_close(union[:, 1:], segmenter.logits(batch.images)["union"].sigmoid())


def test_the_score_of_disagreement_is_in_the_table():
    assert build().relation_sets() == {"annotator_disagreement": ("union", "intersection")}
    assert not SCORES["annotator_disagreement"].rises_with_quality


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("unet", {"width": 4, "backbone_options": {"depth": 2}}),
        ("unet_sharp", {"width": 4, "backbone_options": {"level": 2}}),
        (
            "unetmer",
            {
                "width": 4,
                "backbone_options": {
                    "pools": 2,
                    "scales": [1, 2],
                    "heads": 2,
                    "transformer_depth": 1,
                    "position_grid": 4,
                },
            },
        ),
        ("pspnet", {"width": 2, "backbone_options": {"encoder": "resnet18"}}),
    ],
)
def test_any_network_can_be_the_backbone(backbone, options):
    segmenter = build(backbone=backbone, **options).train()
    segmenter(annotated())["loss"].backward()
    missing = [name for name, parameter in segmenter.named_parameters() if parameter.grad is None]
    assert missing == []
    assert segmenter.eval().read(annotated()).probabilities.shape == (3, 2, 16, 16)


def test_the_multi_confidence_mask():
    union, intersection = np.array([0.9, 0.8, 0.4, 0.3, 0.6]), np.array([0.7, 0.2, 0.1, 0.6, 0.5])
    soft = multi_confidence_mask(union, intersection)
    assert soft == pytest.approx(np.array([0.8, 0.5, 0.25, 0.45, 0.55]))
    assert multi_confidence_mask(union, intersection, hard=True).tolist() == [1, 0.5, 0, 1, 0.5]


def test_the_true_multi_confidence_mask():
    marks = np.array([[[1, 1], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 0]]], bool)
    assert true_multi_confidence_mask(marks).tolist() == [[0.5, 1], [0.5, 0]]
    assert true_multi_confidence_mask(marks[2:]).tolist() == [[0, 0], [0, 0]]
    agreed = true_multi_confidence_mask(marks[[0, 0, 0]])
    assert agreed.tolist() == [[1, 1], [0, 0]]  # no region of low confidence where all agree
    assert true_multi_confidence_mask(np.zeros((0, 2, 2), bool)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "per_voxel"}, "distance"),
        ({"attention_pool": 0}, "attention_pool"),
        ({"backbone_options": {"width": 8}}, "backbone_options"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        UGSNetOptions.from_json(options)


def test_a_wrong_backbone_is_named():
    for options, message in (({"backbone": "vnet"}, "attention_unet"), ({"width": 0}, "width must be")):
        with pytest.raises(UserError, match=message):
            build(**options)
    with pytest.raises(UserError, match="even number"):
        build(backbone="unet", width=5)

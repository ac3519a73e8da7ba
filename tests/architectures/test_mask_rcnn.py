# ruff: noqa: RUF012  (settings of a contract suite are constants)
import numpy as np
import pytest
import torch
from torch import Tensor

from overread.architectures import ARCHITECTURES, Segmenter, build_segmenter
from overread.architectures.mask_rcnn import MaskRCNNOptions
from overread.errors import UserError
from overread.metrics.instances import average_precision, count_overlaps
from overread.records import Batch, TrialConfig
from overread.testing.architectures import ArchitectureContract

SMALL = {
    "encoder": "double_conv",
    "width": 2,
    "anchor_samples": 32,
    "candidates": 50,
    "proposals": 30,
    "region_samples": 16,
    "score_threshold": 0.0,  # so that an untrained network detects something
    "detections": 40,  # of both classes
}


class TestMaskRCNN(ArchitectureContract):
    name = "mask_rcnn"
    options = SMALL
    size = (32, 64)


class TestMaskRCNNSharp(ArchitectureContract):
    name = "mask_rcnn"
    options = SMALL | {"wiring": "sharp", "encoder": "resnet18", "anchor_ratios": (1.0,)}
    losses = {"mask": 2.0, "rpn_box": 0.0}
    size = (64, 32)
    classes = 4
    in_channels = 1


def small(**changes: object) -> Segmenter:
    config = TrialConfig(
        architecture="mask_rcnn", options=SMALL | changes, in_channels=1, classes=2, patch_size=(64, 64), steps=1
    )
    return build_segmenter(config)


def disks(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images (count, 1, size, size) of noisy bright disks that do not touch, and their ids."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] + 0.5
    ids = np.zeros((count, size, size), np.int32)
    for image in ids:
        for number in range(1, 7):
            radius = rng.uniform(4, 8)
            row, column = rng.uniform(radius, size - radius, 2)
            distance = np.hypot(y - row, x - column)
            if not image[distance < radius + 1.5].any():
                image[distance < radius] = number
    images = (ids > 0) + 0.3 * rng.standard_normal(ids.shape)
    return torch.from_numpy(images[:, None]).float(), torch.from_numpy(ids)


def batch_of(images: Tensor, ids: Tensor) -> Batch:
    labels = (ids > 0)[:, None].to(torch.uint8)
    return Batch(images=images, labels=labels, valid=torch.ones(len(ids), 1, dtype=torch.bool), instances=ids)


@pytest.mark.parametrize(
    ("setting", "count"),
    [
        ("mask_rcnn", 34_563_670),
        ("mask_rcnn_2plus", 41_642_070),
        ("mask_rcnn_3plus", 39_282_006),
        ("mask_rcnn_sharp", 44_001_366),
        ("mask_rcnn_resnet101", 62_963_286),
        ("mask_rcnn_2plus_resnet101", 70_041_686),
        ("mask_rcnn_3plus_resnet101", 67_681_622),
        ("mask_rcnn_sharp_resnet101", 72_400_982),
    ],
)
def test_parameters_of_the_published_settings(setting, count):
    assert ARCHITECTURES["mask_rcnn"].published_parameters(setting) == count


def test_the_parameters_are_those_of_the_parts():
    f, hidden, vgg = 256, 1024, 14_723_136  # VGG16-BN without its classifier: 14,714,688 and 2 * 4,224 of the norms
    laterals = (128 + 256 + 512 + 512) * f + 4 * f
    conv3 = f * f * 9 + f
    rpn = conv3 + (f + 1) * 3 + (f + 1) * 12
    box = (f * 49 + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * 2 + (hidden + 1) * 4
    mask = 4 * conv3 + (f * f * 4 + f) + (f + 1)
    assert vgg + laterals + 4 * conv3 + rpn + box + mask == 34_563_670


@pytest.mark.parametrize("random", [True, False])
def test_images_without_instances_train_every_parameter(random):
    segmenter = small().train(random)
    nothing = torch.zeros(2, 64, 64, dtype=torch.int32)
    losses = segmenter(batch_of(torch.randn(2, 1, 64, 64), nothing))
    losses["loss"].backward()
    assert (losses["rpn_box"], losses["box"], losses["mask"]) == (0, 0, 0)
    assert losses["rpn_objectness"] > 0
    assert losses["class"] > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in segmenter.parameters())


def test_in_evaluation_the_loss_is_the_same_each_time_and_the_mean_of_training():
    torch.manual_seed(0)
    images, ids = disks(3, 64, seed=0)
    segmenter, batch = small(anchor_samples=16, region_samples=8), batch_of(images, ids)
    with torch.no_grad():
        segmenter(batch)
        segmenter.eval()
        expected, again = segmenter(batch), segmenter(batch)
        assert all(torch.equal(expected[name], again[name]) for name in expected)
        for norm in segmenter.modules():
            assert not norm.training
        segmenter.training = True  # draws, while the norms stay as they are
        drawn = [segmenter(batch) for _ in range(60)]
    for name in ("rpn_objectness", "class"):
        values = torch.stack([losses[name] for losses in drawn])
        assert values.std() > 0
        spread = values.std().item() / 60**0.5
        assert values.mean().item() == pytest.approx(expected[name].item(), abs=4 * spread)


def test_a_batch_without_instance_ids_is_refused():
    batch = batch_of(*disks(1, 64, seed=0))
    batch.instances = None
    with pytest.raises(UserError, match="instance ids"):
        small()(batch)


@torch.no_grad()
def test_nothing_detected_is_all_background():
    readings = small(score_threshold=0.99).eval().read(batch_of(*disks(2, 64, seed=0)))
    assert readings.probabilities[:, 0].min() == 1
    assert readings.instances is not None
    assert [(len(found.scores), found.ids.max().item()) for found in readings.instances] == [(0, 0), (0, 0)]


def test_the_relatives_differ_in_the_pyramid_only():
    plain, sharp = small(), small(wiring="sharp")
    different = {
        n for n, p in sharp.named_parameters() if p.shape != dict(plain.named_parameters()).get(n, p[:0]).shape
    }
    assert different
    assert all(name.startswith("pyramid.nodes.") for name in different)


def test_learns_to_find_disks():
    images, ids = disks(24, 64, seed=0)
    torch.manual_seed(0)
    detection = {"proposals": 60, "candidates": 100, "score_threshold": 0.05, "detections": 20}
    segmenter = small(wiring="sharp", width=4, region_samples=32, anchor_samples=64, **detection)
    optimiser = torch.optim.AdamW(segmenter.parameters(), lr=4e-3)
    for step in range(45):
        rows = torch.arange(4) + 4 * step
        optimiser.zero_grad()
        segmenter(batch_of(images[rows % 24], ids[rows % 24]))["loss"].backward()
        optimiser.step()
    others = batch_of(*disks(8, 64, seed=1))
    with torch.inference_mode():
        readings = segmenter.eval().read(others)
    assert readings.instances is not None
    found = [
        count_overlaps(one.ids.numpy(), ids.numpy(), one.scores.numpy())
        for one, ids in zip(readings.instances, others.instances, strict=True)
    ]
    assert sum(len(image.true) for image in found) > 30
    scores, hits = (np.concatenate(parts) for parts in zip(*((o.scores, o.hits(0.5)) for o in found), strict=True))
    assert average_precision(scores, hits, sum(len(image.true) for image in found)) > 0.5
    # what is read as probabilities is where the instances are
    shown = readings.probabilities[:, 1] > 0.5
    assert (shown & (others.labels[:, 0] > 0)).sum() / (shown | (others.labels[:, 0] > 0)).sum() > 0.5
    for one in readings.instances:
        assert sorted(set(one.ids.unique().tolist()) - {0}) == list(range(1, len(one.scores) + 1))
        assert (one.scores[:-1] >= one.scores[1:]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width"),
        ({"wiring": "fancy"}, "wiring"),
        ({"encoder": "v_net"}, "encoder"),
        ({"anchor_sides": [8.0]}, "5 sizes"),
        ({"anchor_ratios": []}, "anchor_ratios"),
        ({"score_threshold": 1.0}, "score_threshold"),
        ({"proposals": 0}, "proposals"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MaskRCNNOptions.from_json(options)

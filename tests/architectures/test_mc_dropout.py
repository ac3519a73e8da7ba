# ruff: noqa: RUF012  (settings of a contract suite are constants)
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from overread.architectures import ARCHITECTURES
from overread.architectures.mc_dropout import MCDropoutSegmenter, draw_kept, image_seeds
from overread.errors import UserError
from overread.records import Batch, TrialConfig
from overread.testing.architectures import ArchitectureContract, raised, toy_batch
from overread.training.inference import predict_alternatives, predict_volume

SMALL = {"width": 4, "backbone_options": {"depth": 2}, "passes": 3}


class TestMCDropout(ArchitectureContract):
    name = "mc_dropout"
    options = {"width": 4, "backbone_options": {"depth": 3}, "passes": 3}
    size = (16, 24)


class TestMCDropoutVolumes(ArchitectureContract):
    name = "mc_dropout"
    options = SMALL
    losses = {"dice": 1.0}
    size = (4, 8, 6)
    in_channels = 1


class TestMCDropoutOfUNetSharp(ArchitectureContract):
    name = "mc_dropout"
    options = {"backbone": "unet_sharp", "width": 4, "backbone_options": {"level": 2}, "passes": 4, "rate": 0.2}
    size = (8, 12)
    classes = 2


def build(classes: int = 3, **options: object) -> MCDropoutSegmenter:
    torch.manual_seed(0)
    built = ARCHITECTURES["mc_dropout"].build(SMALL | options, in_channels=1, classes=classes)
    assert isinstance(built, MCDropoutSegmenter)
    return built.eval()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def passes(segmenter: MCDropoutSegmenter, batch: Batch, seed: int | None = None) -> list[Tensor]:
    generator = None if seed is None else seeded(seed)
    return [read for _, read in segmenter.read(batch, generator=generator).alternatives()]


def test_parameters_are_those_of_a_unet():
    entry = ARCHITECTURES["mc_dropout"]
    assert entry.published_parameters() == ARCHITECTURES["unet"].published_parameters() == 31_042_434
    assert (entry.options().rate, entry.options().passes) == (0.5, 200)


def test_options_are_checked():
    for rate in (0.0, 1.0):
        assert f"rate must be in (0, 1), but got {rate}" in raised(lambda rate=rate: build(rate=rate))
    assert "passes must be at least 2, but got 1" in raised(lambda: build(passes=1))
    with pytest.raises(UserError, match="width must stand beside"):
        build(backbone_options={"width": 2})


@torch.no_grad()
def test_a_pass_equals_a_full_pass_with_the_same_masks():
    segmenter, batch = build(rate=0.25), toy_batch((8, 8))
    generators = [seeded(seed) for seed in image_seeds(batch.images, None)]

    class Given(nn.Module):
        """Dropout with the masks of the next pass."""

        def forward(self, last: Tensor) -> Tensor:
            kept = torch.stack([draw_kept(tuple(last.shape[1:]), 0.25, own) for own in generators])
            return torch.where(kept, last / 0.75, 0.0)

    short = passes(segmenter, batch)
    segmenter.dropout = Given()
    for read in short:
        torch.testing.assert_close(read, segmenter.logits(batch.images).softmax(1))


@torch.no_grad()
def test_the_backbone_runs_once():
    segmenter, batch, runs = build(passes=5), toy_batch((8, 8)), []
    segmenter.network.encoder[0].register_forward_hook(lambda *_: runs.append("backbone"))
    segmenter.head.register_forward_hook(lambda *_: runs.append("head"))
    readings = segmenter.read(batch)
    assert runs == ["backbone"]  # the passes are computed when they are asked for
    assert torch.equal(readings.probabilities, readings.probabilities)
    assert runs == ["backbone", *["head"] * 5]
    list(islice(readings.alternatives(), 2))  # one at a time, when asked for
    assert runs == ["backbone", *["head"] * 7]


@torch.no_grad()
def test_passes_have_the_distribution_of_full_passes():
    # The last map has 2 channels: at rate 1/4 a voxel keeps both, one or none with chances 9, 3, 3 and 1 in 16.
    count = 4096
    segmenter = build(width=2, rate=0.25, passes=count, classes=2)
    batch = toy_batch((4, 4), samples=1, classes=2)
    last = segmenter.network.features(batch.images).last
    nn.init.constant_(segmenter.head.weight[0], 0.0)
    segmenter.head.weight.data[1, :, 0, 0] = torch.tensor([1.0, -2.0])
    segmenter.head.bias.data.zero_()
    place = tuple((last[0] > 0.05).all(0).nonzero()[0].tolist())  # where the four outcomes differ
    terms = last[0, :, *place] * torch.tensor([1.0, -2.0]) / 0.75
    outcomes = torch.stack([terms.sum(), terms[0], terms[1], terms.new_zeros(())]).sigmoid()
    short = torch.stack([read[0, 1, *place] for read in passes(segmenter, batch)])
    segmenter.dropout.train()
    full = segmenter.logits(batch.images.expand(count, -1, -1, -1)).softmax(1)[:, 1, *place]
    chances = torch.tensor([9, 3, 3, 1]) / 16
    spread = (chances * (1 - chances) / count).sqrt()
    for found in (short, full):
        nearest = (found[:, None] - outcomes).abs()
        assert nearest.amin(1).max() < 1e-5
        shares = nearest.argmin(1).bincount(minlength=4) / count
        assert ((shares - chances).abs() < 4 * spread).all()


@torch.no_grad()
def test_main_is_the_mean_of_the_passes():
    segmenter, batch = build(passes=7), toy_batch((8, 8))
    readings = segmenter.read(batch, generator=seeded(1))
    named = dict(readings.alternatives())
    assert list(named) == [f"pass_{i}" for i in range(1, 8)]
    torch.testing.assert_close(readings.probabilities, torch.stack(list(named.values())).mean(0))
    assert all(not torch.equal(named["pass_1"], named[f"pass_{i}"]) for i in range(2, 8))
    assert segmenter.relation_sets() == {"mc_dropout_c": tuple(named)}


@torch.no_grad()
def test_the_generator_decides_and_none_is_0():
    segmenter, batch = build(), toy_batch((8, 8))
    first = passes(segmenter, batch, seed=1)
    assert all(map(torch.equal, first, passes(segmenter, batch, seed=1)))
    assert not any(map(torch.equal, first, passes(segmenter, batch, seed=2)))
    plain = passes(segmenter, batch)
    torch.manual_seed(5)
    assert all(map(torch.equal, plain, passes(segmenter, batch)))
    generator = seeded(1)
    again = [segmenter.read(batch, generator=generator).probabilities for _ in range(2)]
    assert not torch.equal(*again)  # the state has moved on


@torch.no_grad()
def test_images_have_masks_of_their_own():
    batch = toy_batch((8, 8))
    alone, others = (image_seeds(images, None) for images in (batch.images[1:2], batch.images))
    assert alone == others[1:2]
    assert len(set(others)) == 3
    assert others == image_seeds(batch.images.contiguous(memory_format=torch.channels_last), None)
    with_generator = image_seeds(batch.images, seeded(3))
    assert len(set(with_generator) | set(others)) == 6


def test_kept_values_are_independent_and_of_the_given_share():
    kept = draw_kept((4, 64, 65), 0.3, seeded(0)).float()  # not a multiple of 4 values in a row
    count = kept.numel()
    spread = (0.3 * 0.7 / count) ** 0.5
    assert kept.shape == (4, 64, 65)
    assert abs(kept.mean() - 0.7) < 4 * spread
    for axis in range(3):  # neighbours agree as often as chance has it
        agree = (kept == kept.roll(1, axis)).float().mean()
        assert abs(agree - (0.7**2 + 0.3**2)) < 8 * spread
    assert not torch.equal(draw_kept((8,), 0.5, seeded(0)), draw_kept((8,), 0.5, seeded(4)))
    assert draw_kept((5,), 1e-9, seeded(0)).all()


def test_dropout_acts_in_training():
    segmenter, images = build(), toy_batch((8, 8)).images
    assert torch.equal(segmenter.logits(images), segmenter.logits(images))
    segmenter.dropout.train()
    assert not torch.equal(segmenter.logits(images), segmenter.logits(images))


def test_a_case_is_read_as_its_passes_say():
    config = TrialConfig(
        architecture="mc_dropout", options=SMALL, in_channels=1, classes=3, patch_size=(8, 8), batch_size=2, steps=1
    )
    segmenter, volume = build(), toy_batch((8, 8), samples=5).images.transpose(0, 1).numpy()
    main = predict_volume(segmenter, volume, config, None, "cpu")
    found = dict(predict_alternatives(segmenter, volume, config, None, "cpu"))
    assert list(found) == ["pass_1", "pass_2", "pass_3"]
    np.testing.assert_allclose(main, np.mean(list(found.values()), axis=0), atol=1e-6)
    other = dict(predict_alternatives(segmenter, volume, config, None, "cpu", generator=seeded(9)))
    assert not np.array_equal(other["pass_1"], found["pass_1"])


@pytest.mark.parametrize("name", ["attention_unet", "unet_plus_plus", "unext", "unetmer"])
def test_other_networks_carry_it(name):
    heads = {"transformer_depth": 1, "scales": [1], "pools": 2} if name == "unetmer" else {}
    segmenter = build(backbone=name, backbone_options=heads, width=8)
    side = segmenter.needs.size_multiple
    with torch.no_grad():
        assert len(passes(segmenter, toy_batch((side, side), samples=1))) == 3

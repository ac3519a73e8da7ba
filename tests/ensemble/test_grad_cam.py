"""Grad-CAM of a network whose weights are known, and of real ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, cat, nn

from overread.architectures import build_segmenter
from overread.architectures.heads import relation_classes, with_background
from overread.ensemble.grad_cam import foreground_score, grad_cam
from overread.errors import UserError
from overread.records import TrialConfig
from overread.testing.tiny import TinyOptions, TinySegmenter


def known(bias: float = -2.0) -> TinySegmenter:
    """Maps relu(x), relu(-x) after the first norm; the foreground's logit is 3 relu(x) - relu(-x) + bias."""
    segmenter = TinySegmenter(TinyOptions(width=2), in_channels=1, classes=2).eval()
    with torch.no_grad():
        for layer, weight, offset in (
            (segmenter.first, [[1.0], [-1.0]], [0.0, 0.0]),
            (segmenter.head, [[0.0, 0.0], [3.0, -1.0]], [0.0, bias]),
        ):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            layer.weight.copy_(torch.tensor(weight)[..., None, None])
            layer.bias.copy_(torch.tensor(offset))
    return segmenter


def tiny(patch: tuple[int, ...] = (1, 4), classes: int = 2) -> TrialConfig:
    return TrialConfig(
        architecture="tiny",
        options={},
        in_channels=1,
        classes=classes,
        patch_size=patch,
        steps=1,
        spatial_dims=len(patch),
    )


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def test_known_network_by_hand() -> None:
    # x = 4, 2, 0, -3: foreground where 3 x > 2, at the first two. The gradient of their logits by the first layer's
    # maps (x, -x) is (3, 0) there and 0 elsewhere (the second map is cut by its ReLU), its mean over four pixels
    # (1.5, 0), so the map is relu(1.5 x) = 6, 3, 0, 0.
    (found,) = grad_cam(known(), row(4, 2, 0, -3), tiny(), layers=["first"], last=1).values()
    assert found.tolist() == [[1.0, 0.5, 0.0, 0.0]]


def test_the_last_layers_come_in_order_and_padding_is_cut() -> None:
    found = grad_cam(known(), row(4, 2, 0, -3), tiny((3, 6)), last=2)
    assert list(found) == ["first", "head"]
    assert found["first"] == pytest.approx(np.array([[1.0, 0.5, 0.0, 0.0]]), abs=1e-5)
    # the head's maps are the logits 0 and z = (10, 4, -2, -5): of weights -w and w, so relu(w z)
    assert found["head"] == pytest.approx(np.array([[1.0, 0.4, 0.0, 0.0]]), abs=1e-5)


@pytest.mark.parametrize("values", [(-1, -2, -3, -4), (0, 0, 0, 0)])
def test_no_predicted_foreground_gives_no_heat(values: tuple[float, ...]) -> None:
    found = grad_cam(known(), row(*values), tiny(), last=1)
    assert not found["head"].any()


def test_score_is_the_logit_of_the_predicted_voxels() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0], [2.0, -1.0, 1.0], [0.0, -1.0, 3.0]]], dtype=torch.float64)  # (B, K, S)
    probabilities = logits.softmax(1)
    e = np.exp
    expected = np.log(e(2) + 1) + np.log(e(1) + e(3))  # all foreground against background, at voxels 0 and 2
    assert foreground_score(probabilities).item() == pytest.approx(expected)
    assert foreground_score(probabilities, 2).item() == pytest.approx(3 - np.log(1 + e(1)))  # at voxel 2
    assert foreground_score(torch.tensor([[[0.0], [1.0]]])).isfinite()  # certain in float32


@pytest.mark.parametrize("logit", [1.0, 18.0, 60.0])  # from 17 on 1 - sigmoid is 0 in float32
@pytest.mark.parametrize(
    "read",
    [relation_classes, lambda z: with_background(z.sigmoid(), (-z).sigmoid()), lambda z: cat([0 * z, z], 1).softmax(1)],
)
def test_the_score_of_a_sure_voxel_has_the_slope_of_its_logit(read: Callable[[Tensor], Tensor], logit: float) -> None:
    z = torch.full((1, 1, 2), logit, requires_grad=True)
    score = foreground_score(read(z))
    assert score.item() == pytest.approx(2 * logit)
    (slope,) = torch.autograd.grad(score, z)
    assert slope.flatten().tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("ugs_net", {"width": 4, "backbone_options": {"depth": 2}}),
        ("unet_sharp", {"width": 4, "level": 2}),
        ("unet_sharp", {"width": 4, "level": 2, "deep_supervision": True, "guidance": True}),
        ("attention_unet", {"width": 4, "depth": 2}),
    ],
)
def test_networks_that_are_sure_have_heat(architecture: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = TrialConfig(
        architecture=architecture, options=options, in_channels=1, classes=2, patch_size=(16, 16), steps=1
    )
    segmenter = build_segmenter(config).eval()
    for name, head in segmenter.named_modules():
        if name.startswith("head") and isinstance(head, nn.Conv2d) and head.bias is not None:
            head.bias.data = torch.tensor([0.0, 25.0])[-len(head.bias) :]
        if "guides" in name and isinstance(head, nn.Conv2d) and head.bias is not None:
            head.bias.data = torch.tensor([-9.0, 9.0])  # the class is there
    image = np.random.default_rng(0).normal(size=(1, 1, 16, 16)).astype(np.float32)
    (*_, heat) = grad_cam(segmenter, image, config, last=1).values()
    assert heat.max() == 1


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("ugs_net", {"width": 4, "backbone_options": {"depth": 2}}),
        ("attention_unet", {"width": 4, "depth": 2}),
        ("unetmer", {"width": 4, "pools": 2, "scales": [1], "heads": 2, "transformer_depth": 1, "position_grid": 4}),
        ("unet_sharp", {"width": 4, "level": 2}),
        ("pspnet", {"width": 8}),
    ],
)
def test_any_network_has_three_last_maps(architecture: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = TrialConfig(
        architecture=architecture, options=options, in_channels=1, classes=2, patch_size=(16, 16), steps=1
    )
    segmenter = build_segmenter(config).eval().requires_grad_(False)
    image = np.random.default_rng(0).normal(size=(1, 1, 13, 16)).astype(np.float32)
    for head in segmenter.modules():  # an untrained network may say nothing at all: make it say foreground
        if isinstance(head, nn.Conv2d) and head.out_channels == 1 and head.bias is not None:
            head.bias.data.fill_(3.0)
    found = grad_cam(segmenter, image, config)
    assert len(found) == 3
    for heat in found.values():
        assert heat.shape == (13, 16) and 0 <= heat.min() <= heat.max() <= 1
    assert all(parameter.grad is None for parameter in segmenter.parameters())


def test_volumes_and_bad_input() -> None:
    segmenter = TinySegmenter(TinyOptions(width=2), in_channels=1, classes=3, spatial_dims=3).eval()
    config = tiny((2, 4, 4), classes=3)
    volume = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    assert {heat.shape for heat in grad_cam(segmenter, volume, config, class_id=2, last=2).values()} == {(2, 4, 4)}
    with pytest.raises(UserError, match=r"must be of 3 layers .* has 2: ask for fewer"):
        grad_cam(segmenter, volume, config)
    with pytest.raises(UserError, match=r"foreground class, 1\.\.2, but got 3"):
        grad_cam(segmenter, volume, config, class_id=3)
    with pytest.raises(UserError, match="at least one layer"):
        grad_cam(segmenter, volume, config, last=0)
    with pytest.raises(UserError, match=r"\(C, 1, H, W\), one slice"):
        grad_cam(known(), volume, tiny())

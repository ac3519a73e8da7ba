from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from overread.architectures.contract import build_segmenter
from overread.metrics.overlap import CaseDice
from overread.records import Prepared
from overread.testing.tiny import tiny_config, tiny_prepared
from overread.training import evaluate
from overread.training.evaluate import Workers, evaluate_cases, predict_case, score_variant

ALONE = Workers(0, 1, torch.device("cpu"))


def perfect() -> torch.nn.Module:
    """Return a network that calls voxels above 0.5 foreground: its logit is 1000 * relu(x - 0.5) - 1."""
    segmenter = build_segmenter(tiny_config(options={"frozen_norm": True})).eval()
    with torch.no_grad():
        for parameter in segmenter.parameters():
            parameter.zero_()
        segmenter.norm.weight.fill_(1.0)  # type: ignore[union-attr,operator]
        segmenter.first.weight.fill_(1.0)  # type: ignore[union-attr,operator]
        segmenter.first.bias.fill_(-0.5)  # type: ignore[union-attr,operator]
        segmenter.head.weight[1].fill_(1000.0)  # type: ignore[union-attr,operator,index]
        segmenter.head.bias[1] = -1.0  # type: ignore[union-attr,operator,index]
    return segmenter


@pytest.mark.parametrize("volumes", [False, True])
def test_thresholding_network_finds_the_squares(tmp_path: Path, volumes: bool) -> None:
    prepared = tiny_prepared(tmp_path, shape=(3 if volumes else 1, 12, 10), volumes=volumes)
    segmenter, case = perfect(), prepared.cases[0]
    mask = predict_case(segmenter, prepared, case.id, tiny_config(), None, "cpu")  # type: ignore[arg-type]
    assert mask.shape == case.native_shape
    image = np.load(prepared.folder(case) / "image.npy")[0]
    assert np.array_equal(mask, (image if volumes else image[0]) > 0.5)
    scores = evaluate_cases(segmenter, prepared, [case.id], tiny_config(), None, "cpu")  # type: ignore[arg-type]
    assert scores[case.id].mean > 0.9


def test_score_leaves_absent_classes_out_and_keeps_every_case(
    monkeypatch: pytest.MonkeyPatch, prepared: Prepared
) -> None:
    given = {"case0": CaseDice((0.5,), 0.5), "case1": CaseDice((None,), 1.0), "case2": CaseDice((0.7,), 0.7)}
    monkeypatch.setattr(evaluate, "evaluate_cases", lambda *arguments, **options: given)
    score = score_variant(build_segmenter(tiny_config()), prepared, list(given), tiny_config(), None, ALONE)
    assert score.variant == "main"
    assert score.dice == pytest.approx((0.5 + 1.0 + 0.7) / 3)
    assert score.dice_per_class == {"square": pytest.approx(0.6)}
    assert score.case_dice == {"case0": 0.5, "case1": 1.0, "case2": 0.7}
    assert score.cases == 3


def test_class_of_no_case_has_no_dice(monkeypatch: pytest.MonkeyPatch, prepared: Prepared) -> None:
    monkeypatch.setattr(evaluate, "evaluate_cases", lambda *arguments, **options: {"case1": CaseDice((None,), 1.0)})
    score = score_variant(build_segmenter(tiny_config()), prepared, ["case1"], tiny_config(), None, ALONE)
    assert score.dice_per_class == {"square": None}

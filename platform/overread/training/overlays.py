"""The pictures of a trial: a few validation cases, worst to best, prediction and truth over the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from overread.architectures.contract import Segmenter
from overread.data.overlay import Panel, best_slice, panel_png
from overread.data.preprocess import to_prepared_mask
from overread.data.store import open_case
from overread.jsonio import write_bytes
from overread.records import Prepared, TrialConfig, VariantScore
from overread.training.evaluate import predict_case

PICTURES = 4


def write_overlays(
    path: Path, segmenter: Segmenter, prepared: Prepared, config: TrialConfig, score: VariantScore, device: torch.device
) -> None:
    """Write one PNG with the worst, the best and cases between, of the variant that `score` belongs to."""
    ranked = sorted(score.case_dice, key=lambda case_id: score.case_dice[case_id])
    places = sorted({round(i * (len(ranked) - 1) / (PICTURES - 1)) for i in range(PICTURES)})
    panels = [
        _panel(segmenter, prepared, config, score, case_id, device) for case_id in (ranked[place] for place in places)
    ]
    write_bytes(path, panel_png(panels))


def _panel(
    segmenter: Segmenter,
    prepared: Prepared,
    config: TrialConfig,
    score: VariantScore,
    case_id: str,
    device: torch.device,
) -> Panel:
    """Return caption, image and masks of the slice with most truth."""
    arrays = open_case(prepared, case_id)
    variant = segmenter.variant(score.variant)
    mask = predict_case(segmenter, prepared, case_id, config, variant, device)
    truth = to_prepared_mask(np.asarray(arrays.truth), prepared.preprocessing)
    place = best_slice(truth)
    layers = {"prediction": to_prepared_mask(mask, prepared.preprocessing)[place], "truth": truth[place]}
    return f"{case_id} {score.case_dice[case_id]:.2f}", np.asarray(arrays.image[0, place]), layers

"""Validation of whole cases in their own (native) grid, spread over the workers, and the scores of variants."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from overread.architectures.contract import Segmenter
from overread.data.preprocess import to_native
from overread.data.store import open_case
from overread.metrics.overlap import CaseDice, case_dice
from overread.records import MAIN, Prepared, TrialConfig, Variant, VariantScore
from overread.training.collective import sum_over_ranks
from overread.training.extras import case_extras
from overread.training.inference import PLAIN, predict_volume
from overread.training.step import Precision


def predict_case(
    segmenter: Segmenter,
    prepared: Prepared,
    case_id: str,
    config: TrialConfig,
    variant: Variant | None,
    device: torch.device | str,
    *,
    precision: Precision = PLAIN,
) -> np.ndarray:
    """Return the predicted class ids (uint8) of a prepared case in its native grid; see `predict_probabilities`."""
    native = predict_probabilities(segmenter, prepared, case_id, config, variant, device, precision=precision)
    return np.argmax(native, axis=0).astype(np.uint8)


def predict_probabilities(
    segmenter: Segmenter,
    prepared: Prepared,
    case_id: str,
    config: TrialConfig,
    variant: Variant | None,
    device: torch.device | str,
    *,
    precision: Precision = PLAIN,
) -> np.ndarray:
    """Return the probabilities (K, *native) float32 of a prepared case, read with its extras, which are then stored."""
    case = prepared.case(case_id)
    image = open_case(prepared, case_id).image
    extras = case_extras(segmenter, prepared, case_id)
    probabilities = predict_volume(
        segmenter, np.array(image), config, variant, device, extras=extras, precision=precision
    )
    return to_native(probabilities, case.native_shape, prepared.preprocessing)


def evaluate_cases(
    segmenter: Segmenter,
    prepared: Prepared,
    case_ids: Sequence[str],
    config: TrialConfig,
    variant: Variant | None,
    device: torch.device | str,
    *,
    precision: Precision = PLAIN,
) -> dict[str, CaseDice]:
    """Return the Dice of every case against its truth, in the native grid."""
    scores = {}
    for case_id in case_ids:
        mask = predict_case(segmenter, prepared, case_id, config, variant, device, precision=precision)
        scores[case_id] = case_dice(mask, np.asarray(open_case(prepared, case_id).truth), prepared.classes)
    return scores


@dataclass(frozen=True)
class Workers:
    """This worker's place among those that share the cases."""

    rank: int
    world_size: int
    device: torch.device


def score_variant(
    segmenter: Segmenter,
    prepared: Prepared,
    case_ids: Sequence[str],
    config: TrialConfig,
    variant: Variant | None,
    workers: Workers,
    *,
    precision: Precision = PLAIN,
) -> VariantScore:
    """Evaluate every case on exactly one worker and return the scores of all cases, the same on every worker."""
    mine = list(case_ids)[workers.rank :: workers.world_size]
    segmenter.eval()
    started = time.perf_counter()
    scores = evaluate_cases(segmenter, prepared, mine, config, variant, workers.device, precision=precision)
    seconds = time.perf_counter() - started
    table = np.zeros((len(case_ids), prepared.classes))
    for case_id, score in scores.items():
        table[list(case_ids).index(case_id)] = [score.mean, *(np.nan if v is None else v for v in score.per_class)]
    totals = sum_over_ranks(torch.tensor([seconds, *table.ravel()]), workers.device).numpy()
    return _score(variant.name if variant else MAIN, prepared, case_ids, totals[1:].reshape(table.shape), totals[0])


def _score(name: str, prepared: Prepared, case_ids: Sequence[str], table: np.ndarray, seconds: float) -> VariantScore:
    """Build the record from (cases, 1 + foreground classes): the class mean, then each class, NaN where absent."""
    per_class: dict[str, float | None] = {}
    for label, column in zip(prepared.label_names[1:], table[:, 1:].T, strict=True):
        present = column[~np.isnan(column)]
        per_class[label] = float(present.mean()) if len(present) else None
    return VariantScore(
        variant=name,
        dice=float(table[:, 0].mean()),
        dice_per_class=per_class,
        cases=len(case_ids),
        seconds_per_case=float(seconds) / len(case_ids),
        case_dice={case_id: float(value) for case_id, value in zip(case_ids, table[:, 0], strict=True)},
    )

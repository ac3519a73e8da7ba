"""What MLflow is told about a trial: records as flat, well-named parameters and metrics. No MLflow in here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overread.ensemble.gain import GAIN, Gain
from overread.records import MAIN, TrialConfig, TrialOutcome

VARIANT_DICE = "variant_dice/"
VARIANT_SECONDS = "variant_seconds_per_case/"
VARIANT_CASES = "variant_cases/"
LONGEST = 6000
"""MLflow cuts longer parameter values."""


def safe(name: str) -> str:
    """Return a name that MLflow takes as key: it refuses brackets, commas and more."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


def config_params(config: TrialConfig) -> dict[str, str]:
    """Return a trial's config as flat parameters, `optimiser.name` for nested ones, without those that are None."""
    return flatten(config.to_json())


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested JSON as one level of strings; lists stay JSON, None is left out.

    >>> flatten({"a": {"b": 1}, "c": [1, 2], "d": None})
    {'a.b': '1', 'c': '[1, 2]'}
    """
    flat: dict[str, str] = {}
    for key, value in data.items():
        if value is None or key == "schema_version":
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = json.dumps(value) if isinstance(value, list | tuple | bool) else str(value)
            flat[safe(f"{prefix}{key}")] = text[:LONGEST]
    return flat


def final_metrics(outcome: TrialOutcome) -> dict[str, float]:
    """Return the figures of a trial's end: `dice` of the main variant, and Dice and cost of every variant."""
    metrics = {"parameters": float(outcome.parameters), "total_seconds": outcome.seconds}
    metrics["workers"] = float(outcome.workers)
    for score in outcome.variants:
        metrics[f"{VARIANT_DICE}{score.variant}"] = score.dice
        metrics[f"{VARIANT_SECONDS}{score.variant}"] = score.seconds_per_case
        metrics[f"{VARIANT_CASES}{score.variant}"] = float(score.cases)
        for label, dice in score.dice_per_class.items():
            if dice is not None:
                metrics[f"variant_class_dice/{score.variant}/{label}"] = dice
        if score.variant == MAIN:
            metrics["dice"] = score.dice
    return metrics


def gain_metrics(folder: Path) -> dict[str, float]:
    """Return what a trial added to the ensemble of its time, where that was measured: nothing without its file."""
    path = folder / GAIN
    if not path.is_file():
        return {}
    gain = Gain.load(path)
    figures = {"gain": gain.gain, "gain_error": gain.error, "gain_aurc": gain.aurc_gain, "gain_dice": gain.dice}
    return figures | {"gain_members": float(len(gain.members))}


def trial_files(outcome: TrialOutcome, folder: Path) -> tuple[Path, ...]:
    """Return the files of a trial's folder that belong to its run, as far as they exist."""
    names = ("outcome.json", "overlays.png", GAIN, *((outcome.weights,) if outcome.weights else ()))
    return tuple(folder / name for name in names if (folder / name).is_file())

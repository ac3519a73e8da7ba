"""A small data set on disk and a run of two untrained networks on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from overread.architectures import build_segmenter
from overread.data.prepare import prepare_dataset, serial_map
from overread.pipeline.folders import RunFolder, RunRecord
from overread.pipeline.stages import Run
from overread.records import EpochReport, Prepared, PrepareSettings, TrialConfig, TrialOutcome, VariantScore
from overread.tracking.runs import Tracker
from overread.training.checkpoint import save_weights

SETTINGS = PrepareSettings(folds=2)
CASES = 20


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 20 cases of 8 x 8 pixels, a square of 4 x 4 in each mask."""
    root = tmp_path_factory.mktemp("squares") / "set"
    rng = np.random.default_rng(0)
    for i in range(CASES):
        mask = np.zeros((8, 8), np.uint8)
        mask[2:6, i % 4 : i % 4 + 4] = 255
        for folder, pixels in (("images", rng.integers(0, 255, (8, 8)).astype(np.uint8)), ("masks", mask)):
            (root / folder).mkdir(exist_ok=True, parents=True)
            Image.fromarray(pixels).save(root / folder / f"n{i:02d}.png")
    return root


@pytest.fixture(scope="session")
def squares_prepared(squares: Path) -> Prepared:
    """The data set, prepared into a cache beside it."""
    return prepare_dataset(squares, SETTINGS, squares.parent / "cache", serial_map)


def small_unet(seed: int) -> TrialConfig:
    """Return a config whose training takes no time."""
    return TrialConfig(
        architecture="unet",
        options={"width": 2, "depth": 2},
        in_channels=1,
        classes=2,
        patch_size=(8, 8),
        batch_size=4,
        steps=6,
        epochs=3,
        mixed_precision=False,
        seed=seed,
    )


@pytest.fixture
def two_networks(tmp_path: Path, squares: Path, squares_prepared: Prepared) -> Run:
    """A run with the trials t0 and t1, best at the second of three epochs."""
    return run_of(tmp_path / "run", squares, squares_prepared, (small_unet(0), small_unet(1)))


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """`run_of`, for tests of other modules."""
    return run_of


def run_of(root: Path, data: Path, prepared: Prepared, configs: Sequence[TrialConfig]) -> Run:
    """Write a run with an untrained network of each config, the trials t0, t1, ..."""
    folder = RunFolder(root)
    record = RunRecord(
        data=str(data),
        cache=str(data.parent / "cache"),
        prepare=SETTINGS,
        tracking_uri=None,
        experiment="e",
        search_id="s",
    )
    record.save(folder.record)
    for seed, config in enumerate(configs):
        trial = f"t{seed}"
        place = folder.search / "trials" / trial
        place.mkdir(parents=True)
        torch.manual_seed(seed)
        save_weights(place / "weights.safetensors", build_segmenter(config))
        score = VariantScore(
            variant="main",
            dice=0.5,
            dice_per_class={},
            cases=1,
            seconds_per_case=0.1,
            case_dice=dict.fromkeys(prepared.splits.folds[0], 0.5),
        )
        epochs = tuple(
            EpochReport(epoch=e, step=2 * e, progress=33 * e, seconds=e, metrics={"validation_dice": dice})
            for e, dice in ((1, 0.2), (2, 0.5), (3, 0.5))
        )
        TrialOutcome(
            trial_id=trial,
            config=config,
            state="finished",
            epochs=epochs,
            variants=(score,),
            weights="weights.safetensors",
        ).save(place / "outcome.json")
    return Run(folder=folder, record=record, prepared=prepared, tracker=cast(Tracker, None))

"""Candidates read what they were held out from, and are left out where they cannot read all."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from overread.data.prepare import serial_map
from overread.data.store import open_case
from overread.ensemble.selection import shortlist
from overread.pipeline.candidate_readings import lacking_disk, read_candidates
from overread.pipeline.stages import Run
from overread.search.leaderboard import read_outcomes


def test_a_candidate_without_a_training_for_some_cases_is_left_out(
    two_networks: Run, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = shortlist(read_outcomes(two_networks.folder.search), 2)
    assert first.outcome.config.fold == 0
    found = {"whole": first, "half": second}
    cases = tuple(case for fold in two_networks.prepared.splits.folds for case in fold)
    # only the first candidate has a network (here its own again) that held the second fold out
    trained = {first.outcome.trial_id: {1: (first.outcome.config, first.weights)}}
    with (
        caplog.at_level(logging.WARNING, logger="overread"),
        read_candidates(two_networks, dict(found), cases, serial_map, 0.0, trained) as predictions,
    ):
        assert predictions.members == ("whole",)
        assert predictions.cases == cases
        root = predictions.root
        for case in cases:
            probabilities = predictions.probabilities("whole", case)
            assert probabilities.dtype == np.float16
            np.testing.assert_allclose(np.asarray(probabilities, np.float32).sum(0), 1.0, atol=2e-3)
            assert np.array_equal(predictions.truth(case), open_case(two_networks.prepared, case).truth)
    missing = len(two_networks.prepared.splits.folds[1])
    assert f"candidate half is left out: UserError: every case must be held out from a training, but {missing} are" in (
        caplog.text
    )
    assert not root.exists()


def test_disk_that_is_lacking_is_counted(two_networks: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 classes, 8 x 8 voxels: 256 bytes a case and candidate in float16, and the running vote in float32."""
    cases = two_networks.prepared.splits.folds[0]
    needed = len(cases) * (3 * 256 + 512)
    for free, lacks in ((needed / 0.9 + 1, False), (needed / 0.9 - 1, True)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free})())
        assert bool(lacking_disk(two_networks, cases, 3)) == lacks

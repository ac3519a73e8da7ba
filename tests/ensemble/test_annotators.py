"""Readings held against several annotators, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from overread.ensemble.annotators import ALL_CLASSES, ENSEMBLE, MCM, AnnotatorTable, agreement_of, annotator_tables
from overread.review.tables import annotator_grid

LABELS = ("background", "organ")
ANNA, BEN, CARL = (np.array(row) for row in ([1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]))
EVERYONE = {"anna": ANNA, "ben": BEN, "carl": CARL}


def test_figures_of_a_case() -> None:
    probabilities = np.array([0.95, 0.65, 0.15, 0.05])
    found = agreement_of(
        BEN,
        EVERYONE,
        LABELS,
        readings=[BEN, ANNA],
        confidences={ENSEMBLE: np.stack([1 - probabilities, probabilities])},
    )
    assert list(found) == ["organ"]
    organ = found["organ"]
    assert organ.each == pytest.approx({"anna": 4 / 5, "ben": 1, "carl": 2 / 3})
    assert organ.majority == 1  # two of three mark the first two pixels
    assert organ.between == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    # distances: ben to anna 1/3, to carl 1/2; anna to carl 2/3; within the annotators twice their sum over 9
    within = 2 * (1 / 3 + 1 / 2 + 2 / 3) / 9
    assert organ.energy_distance == pytest.approx(2 * (1 / 3 + 0 + 1 / 2) / 3 - within)
    across = (1 / 3 + 0 + 1 / 2 + 0 + 1 / 3 + 2 / 3) / 6
    assert organ.set_energy_distance == pytest.approx(2 * across - within - 2 * (1 / 3) / 4)
    assert organ.readings == 2
    count, confidence, share = organ.calibration[ENSEMBLE]
    assert [k for k, n in enumerate(count) if n] == [0, 1, 6, 9]
    assert (sum(count), sum(confidence), sum(share)) == pytest.approx((4, 1.8, 1 + 2 / 3 + 1 / 3 + 0))


def test_classes_stand_alone_and_together() -> None:
    labels = ("background", "organ", "lesion", "vessel")
    mask, first, second = np.array([1, 1, 2, 0]), np.array([1, 1, 1, 0]), np.array([1, 2, 2, 0])
    found = agreement_of(mask, {"a": first, "b": second}, labels)
    assert list(found) == ["organ", "lesion", ALL_CLASSES]  # nobody has a vessel
    assert found["organ"].each == pytest.approx({"a": 4 / 5, "b": 2 / 3})
    assert found["lesion"].each == pytest.approx({"a": 0, "b": 2 / 3})
    assert found[ALL_CLASSES].each == {"a": 1, "b": 1}
    assert (found["organ"].readings, found["organ"].set_energy_distance) == (0, None)


def test_tables_over_cases() -> None:
    sure, doubt = np.array([[0.0, 0, 1, 1], [1, 1, 0, 0]]), np.full((2, 4), 0.5)
    cases = [
        agreement_of(BEN, EVERYONE, LABELS, confidences={ENSEMBLE: sure}),
        agreement_of(ANNA, {"anna": ANNA, "dora": ANNA}, LABELS, confidences={ENSEMBLE: sure, MCM: doubt}),
        agreement_of(np.zeros(4, int), {"anna": np.zeros(4, int), "ben": np.zeros(4, int)}, LABELS),
    ]
    (table,) = annotator_tables(cases)
    figures = table.figures
    assert (figures["annotator:anna"].mean, figures["annotator:anna"].n) == (pytest.approx((4 / 5 + 1) / 2), 2)
    assert (figures["annotator:dora"].n, figures["majority"].n) == (1, 2)  # of the third case there is nothing to say
    assert "set_energy_distance" not in figures
    # ensemble: eight pixels; of the four at 1 the shares are 1, 2/3, 1, 1, of those at 0 1/3, 0, 1, 0
    ensemble = table.calibration[ENSEMBLE]
    assert (ensemble.voxels[0], ensemble.voxels[9], sum(ensemble.voxels)) == (4, 4, 8)
    assert (ensemble.share[9], ensemble.share[5]) == (pytest.approx(11 / 12), None)
    assert ensemble.expected_error == pytest.approx((1 / 3 + 4 / 3) / 8)
    # the MCM of the second case says 1/2 everywhere, where three of four pixels are marked by all
    assert table.calibration[MCM].mean_error == pytest.approx(1 / 4)
    assert AnnotatorTable.from_json(table.to_json()) == table
    rows = annotator_grid([table]).rows
    assert rows[0][:3] == ("organ", "Dice with anna", "0.900")
    assert rows[-1][:3] == ("organ", "calibration error of the MCM, bins alike", "0.250")
    assert annotator_tables([]) == ()

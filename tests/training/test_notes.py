"""What the driver tells of a training: hand-made annotations of three cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from overread.records import ALL_FOLDS, Needs, Prepared
from overread.testing.tiny import TinySegmenter, tiny_architecture, tiny_config, tiny_prepared
from overread.training.notes import lone_annotations, notes

ALONE = (
    "2 of 3 cases of 'tiny' have fewer than two annotations that mark anything: in training one alone is taken for "
    "what all say, none for an empty mask"
)


class ManySegmenter(TinySegmenter):
    """Learns from several annotators."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.needs = Needs(annotators=True)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Return three cases of two annotators: both drew the first, one the second, none the third."""
    found = tiny_prepared(tmp_path, cases=3)
    for case, drawn in zip(found.cases, ((1, 1), (0, 1), (0, 0)), strict=True):
        labels = np.load(found.folder(case) / "labels.npy")
        np.save(found.folder(case) / "labels.npy", np.stack([labels[0] * marks for marks in drawn]))
    return replace(found, cases=tuple(replace(case, annotators=("a", "b")) for case in found.cases))


def test_cases_with_a_single_annotation_are_told_once_for_all_folds(prepared: Prepared) -> None:
    with tiny_architecture(ManySegmenter, "many"):
        for fold in (0, 1, ALL_FOLDS):
            assert notes([tiny_config(architecture="many", fold=fold)], prepared) == (ALONE,)
        several = [tiny_config(architecture="many", fold=fold) for fold in (0, 1)]
        assert notes([*several, tiny_config()], prepared) == (ALONE,)
        assert notes([tiny_config()], prepared) == ()  # a network that takes one label


def test_nothing_is_told_where_all_have_two(prepared: Prepared) -> None:
    both = replace(prepared, splits=replace(prepared.splits, folds=(("case0",), ())))
    with tiny_architecture(ManySegmenter, "many"):
        assert lone_annotations([tiny_config(architecture="many", fold=1)], both) == ""

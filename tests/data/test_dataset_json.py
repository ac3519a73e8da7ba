"""Labels, channels and paths in a `dataset.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from overread.data.dataset_json import channel_names, label_table, listed_file
from overread.errors import UserError


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "2": "b", "1": "a"},
        {"b": 2, "background": 0, "a": 1},
        {"background": "0", "a": "1", "b": "2"},
    ],
)
def test_labels_of_both_dialects_come_in_order_of_value(labels: dict[str, Any]) -> None:
    assert label_table(Path(), labels) == (("background", "a", "b"), (0, 1, 2))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "must name each value"),
        ({"background": 0, "whole": [1, 2]}, "regions are not supported"),
        ({"background": 0, "a": 1, "b": 1}, "1 is given twice"),
        ({"a": 1, "b": 2}, "background 0 and at least one more"),
        ({"0": "x", "1": "x"}, "distinct names"),
        ({"background": 0, "a": 1, "ignore": 2}, "no 'ignore'"),
    ],
)
def test_labels_that_are_no_plain_classes(labels: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        label_table(Path(), labels)


def test_channels_are_ordered_by_number() -> None:
    channels = {str(number): f"c{number}" for number in reversed(range(11))}
    assert channel_names(Path(), channels, "modality") == tuple(f"c{number}" for number in range(11))
    for wrong in ({}, {"1": "T1"}, ["T1"], "CT"):
        with pytest.raises(UserError, match="modality must name channels 0, 1"):
            channel_names(Path(), wrong, "modality")


def test_listed_file_is_normalised_and_must_be_inside(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "a.nii").write_bytes(b"")
    problems: list[str] = []
    assert listed_file(tmp_path, "./imagesTr/../imagesTr/a.nii", "image", problems) == "imagesTr/a.nii"
    assert problems == []
    assert listed_file(tmp_path, "imagesTr/b.nii", "image", problems) is None
    assert listed_file(tmp_path / "imagesTr", "../imagesTr/a.nii", "image", problems) is None
    assert "case b: image imagesTr/b.nii must exist" in problems[0]
    assert "must name files inside" in problems[1]

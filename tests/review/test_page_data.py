"""The data that the page's script gets."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from overread.records import CaseConfidence
from overread.review.page_data import PictureLimits, Pictures, page_data, ranking_scores, to_script
from overread.review.report import CaseRow
from overread.review.views import Sampled, case_view


def case(name: str, confidence: float | None, dice: float | None = None, **further: float | None) -> CaseRow:
    row = CaseConfidence(
        case=name,
        n_readings=2,
        foreground=0.25,
        relation_confidence=confidence,
        pairwise_dice=confidence,
        relation_confidence_per_class={"organ": confidence},
        pairwise_dice_per_class={"organ": confidence},
        scores=dict(further),
    )
    return CaseRow(confidence=row, dice=dice, dice_per_class={"organ": dice})


@pytest.mark.parametrize("name", ["</script><script>alert(1)</script>", "<!--", "]]>&amp;", "\u2028\u2029'\"\\"])
def test_no_text_leaves_its_script_element(name: str) -> None:
    class Reader(HTMLParser):
        tags: list[str] = []  # noqa: RUF012
        text = ""

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.tags = [*self.tags, tag]

        def handle_data(self, data: str) -> None:
            self.text += data

    reader = Reader()
    reader.feed(f"<script>{to_script({name: name})}</script>")
    assert reader.tags == ["script"]
    assert json.loads(reader.text) == {name: name}


def test_columns_follow_the_order_and_what_nobody_has_is_left_out() -> None:
    data = page_data([case("b", 0.123456, 0.5), case("a", None)], "relation_confidence", 0.7)
    assert data["case"] == ["b", "a"]
    assert data["columns"] == {
        "relation_confidence": [0.1235, None],
        "pairwise_dice": [0.1235, None],
        "dice": [0.5, None],
        "foreground": [0.25, 0.25],
    }
    assert data["classes"] == {
        "organ": {"relation_confidence": [0.1235, None], "pairwise_dice": [0.1235, None], "dice": [0.5, None]}
    }
    assert data["plans"]["relation_confidence"]["basis"] == "true"


def test_flags_are_told() -> None:
    row = case("a", 0.9)
    flagged = replace(row, confidence=replace(row.confidence, flag="member_failed:unet-1"))
    data = page_data([flagged, row], "relation_confidence", 0.7)
    assert data["flags"] == [["member failed: unet-1"], []]
    assert data["plans"]["relation_confidence"] is None  # neither truth nor predicted Dice


def test_orders_by_the_other_scores_are_of_their_own_values_not_of_the_rounded_ones() -> None:
    rows = [case("a", 0.1, c_12=0.50002), case("b", 0.2, c_12=0.50001), case("c", 0.3)]  # no c_12: first
    data = page_data(rows, "relation_confidence", 0.7)
    assert data["columns"]["c_12"] == [0.5, 0.5, None]
    assert data["orders"] == {"pairwise_dice": [0, 1, 2], "c_12": [2, 1, 0]}


def test_marks_belong_to_these_readings_of_these_cases() -> None:
    rows = [case("a", 0.5), case("b", 0.5), case("a", 0.6), case("a", 0.5)]
    keys = [page_data([row], "relation_confidence", 0.7)["key"] for row in rows]
    assert len(set(keys)) == 3
    assert keys[3] == keys[0]


def test_scores_that_can_order_a_review() -> None:
    rows = [case("a", 0.5, c_12=0.5, annotator_disagreement=0.5, entropy=None), case("b", 0.5)]
    assert ranking_scores(rows, "pairwise_dice") == ["pairwise_dice", "relation_confidence", "c_12"]


def sampled(size: int) -> Sampled:
    return Sampled(shape=(1, 1, 1), image="i" * (size - 3), codes="", bytes_per_code=1, table=((0,),))


def test_picture_data_is_bounded() -> None:
    view = case_view(
        np.zeros((4, 4)),
        [("prediction", np.zeros((4, 4), np.uint8))],
        foreground=np.zeros((4, 4), np.uint8),
        slice_axis=None,
    )
    view = replace(view, whole=sampled(300), key_slice=sampled(100))
    rows = [replace(case(name, 0.5), view=lambda: view) for name in "abcdefg"]

    def embedded(volumes: int, characters: int) -> tuple[int, int, int, int]:
        pictures = Pictures(rows, PictureLimits(volumes=volumes, megabytes=characters / 1e6))
        assert all(len(json.loads(text)["image"]) in (97, 297) for _, text in pictures)
        assert pictures.characters <= characters
        return pictures.volumes, pictures.slices, pictures.left_out, pictures.characters

    assert embedded(2, 10_000) == (2, 5, 0, 1100)
    assert embedded(7, 1000) == (1, 6, 0, 900)  # volumes take half of the room at most: slices are for all
    assert embedded(0, 250) == (0, 2, 5, 200)


def test_cases_without_a_view_say_so() -> None:
    pictures = Pictures([case("a", 0.5)], PictureLimits())
    assert list(pictures) == []
    assert pictures.told.startswith("No pictures are embedded")

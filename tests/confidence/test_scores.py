import numpy as np
import pytest

from overread.confidence.relations import Relations
from overread.confidence.scores import SCORES, case_confidence, pair_score
from overread.errors import UserError

LABELS = ("background", "organ", "lesion")
FIRST = np.array([1, 1, 0, 2, 0])
SECOND = np.array([1, 0, 0, 2, 2])
EMPTY = np.zeros(5, int)


def relations_of(*masks: np.ndarray, names: str = "124") -> Relations:
    relations = Relations((5,), 3)
    for name, mask in zip(names, masks, strict=False):
        relations.add(mask, name)
    return relations


def test_table_says_which_readings_enter() -> None:
    assert set(SCORES) == {
        "c_ij",
        "relation_unet_c",
        "mc_dropout_c",
        "relation_confidence",
        "pairwise_dice",
        "annotator_disagreement",
        "sa_mean",
    }
    assert [name for name in SCORES if not SCORES[name].rises_with_quality] == ["annotator_disagreement"]


def test_row_by_hand() -> None:
    row = case_confidence("a", relations_of(FIRST, SECOND), LABELS, 0.9)
    # organ: 2 * 1 / (2 + 1); lesion: 2 * 1 / (1 + 2)
    assert row.relation_confidence_per_class == {"organ": pytest.approx(2 / 3), "lesion": pytest.approx(2 / 3)}
    assert row.relation_confidence == row.pairwise_dice == pytest.approx(2 / 3)
    assert (row.case, row.n_readings, row.flag, row.foreground, row.scores) == ("a", 2, "", 0.9, {})


def test_class_in_no_reading_is_left_out_of_the_mean() -> None:
    mask = np.array([1, 1, 0, 0, 0])
    row = case_confidence("a", relations_of(mask, mask), LABELS, 0.9)
    assert row.relation_confidence_per_class == {"organ": 1.0, "lesion": None}
    assert row.relation_confidence == 1


def test_all_empty_is_flagged_and_has_no_score() -> None:
    row = case_confidence("a", relations_of(EMPTY, EMPTY), LABELS, 0.3)
    assert (row.flag, row.relation_confidence, row.pairwise_dice) == ("all_empty", None, None)


def test_failed_members_are_named() -> None:
    row = case_confidence("a", relations_of(FIRST, SECOND), LABELS, 0.9, failed=("unet-3", "unetmer-1"))
    assert row.flag == "member_failed:unet-3,unetmer-1"
    assert row.n_readings == 2
    assert case_confidence("a", relations_of(EMPTY, EMPTY), LABELS, 0.1, ["m"]).flag == "member_failed:m;all_empty"


def test_one_reading_does_not_agree_with_itself() -> None:
    row = case_confidence("a", relations_of(FIRST), LABELS, 0.9)
    assert (row.flag, row.relation_confidence, row.n_readings) == ("one_reading", None, 1)


def test_pair_score_by_hand() -> None:
    relations = relations_of(FIRST, SECOND, EMPTY, EMPTY, names="1248")
    # organ 2 * 1 / (2 + 1), lesion 2 * 1 / (1 + 2)
    assert pair_score(relations, "1", "2") == pytest.approx(2 / 3)
    assert pair_score(relations, "1", "4") == 0
    assert pair_score(relations, "2", "4") == 0
    assert pair_score(relations, "4", "8") is None


def test_a_score_without_its_readings_is_refused() -> None:
    """A scale set without 1 has no C_1j."""
    relations = relations_of(FIRST, SECOND, names="24")
    with pytest.raises(UserError, match="both readings, but 1 is not among 2, 4: train the network with it"):
        pair_score(relations, "1", "2")

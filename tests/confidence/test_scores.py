import numpy as np
import pytest

from overread.confidence.extent import mask_extent
from overread.confidence.relations import Relations
from overread.confidence.scores import SCORES, case_confidence, pair_score, relation_scores
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
        "entropy",
        "foreground",
        "volume",
        "components",
    }
    free = {name for name in SCORES if not SCORES[name].rises_with_quality}
    assert free == {"annotator_disagreement", "foreground", "volume", "components"}


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


def test_a_class_that_no_reading_has_is_known_also_of_a_single_reading() -> None:
    organ = np.array([1, 1, 0, 0, 0])
    assert case_confidence("a", relations_of(organ), LABELS, 0.9).absent == ("lesion",)
    assert case_confidence("a", relations_of(organ, EMPTY), LABELS, 0.9).absent == ("lesion",)
    assert case_confidence("a", relations_of(FIRST, EMPTY), LABELS, 0.9).absent == ()
    assert case_confidence("a", relations_of(EMPTY), LABELS, 0.9).absent == ("organ", "lesion")


def test_extent_of_the_mask_is_told_by_class() -> None:
    extent = mask_extent(np.array([[1, 0, 1, 2, 2]]), 3, (2.0, 0.5))
    row = case_confidence("a", relations_of(FIRST), LABELS, 0.9, extent=extent)
    assert (row.volume_unit, row.volume_per_class) == ("mm2", {"organ": 2.0, "lesion": 2.0})
    assert row.components_per_class == {"organ": 2, "lesion": 1}
    assert case_confidence("a", relations_of(FIRST), LABELS, 0.9).volume_unit == ""


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


def test_relation_scores_of_pairs_are_pair_scores() -> None:
    masks = {"1": FIRST, "2": SECOND, "4": EMPTY, "8": EMPTY}
    relations = relations_of(*masks.values(), names="1248")
    sets = {f"c_{a}{b}": (a, b) for a, b in ["12", "21", "14", "48", "11"]}
    found = relation_scores(sets, masks.items(), (5,), 3)
    assert found == {score: pair_score(relations, *pair) for score, pair in sets.items()}
    assert found["c_12"] == pytest.approx(2 / 3)
    assert (found["c_14"], found["c_48"], found["c_11"]) == (0, None, 1)


def test_relation_score_of_many_readings_by_hand() -> None:
    masks = {
        "a": np.array([1, 1, 1, 2, 0]),
        "b": np.array([0, 1, 1, 2, 2]),
        "c": np.array([0, 1, 1, 1, 2]),
        "d": np.array([0, 0, 1, 2, 2]),
    }
    sets = {"all": ("a", "b", "c", "d"), "some": ("b", "c", "d"), "same": ("b", "b", "b")}
    found = relation_scores(sets, (item for item in [("unused", FIRST), *masks.items()]), (5,), 3)
    # of all, organ: intersection 1, union 4; lesion: 0 and 2. Of some: 1 and 3; 1 and 2.
    assert found["all"] == pytest.approx((2 * 1 / (1 + 4) + 0) / 2)
    assert found["some"] == pytest.approx((2 * 1 / (1 + 3) + 2 * 1 / (1 + 2)) / 2)
    assert found["same"] == 1


def test_relation_score_equals_that_of_the_kept_readings() -> None:
    masks = np.random.default_rng(0).integers(0, 3, (20, 5, 7), dtype=np.uint8)
    masks[:, :2] = 1  # what all agree on
    relations = Relations((5, 7), 3)
    for mask in masks:
        relations.add(mask)
    names = tuple(map(str, range(20)))
    found = relation_scores({"c": names}, zip(names, masks, strict=True), (5, 7), 3)
    expected = [relations.relation_confidence(k) for k in (1, 2)]
    assert expected[0] > expected[1] == 0
    assert found["c"] == sum(expected) / 2


def test_relation_scores_need_their_readings() -> None:
    with pytest.raises(UserError, match="c must have all readings, but 2 and 4 are not there"):
        relation_scores({"c": ("1", "2", "4")}, [("1", FIRST)], (5,), 3)

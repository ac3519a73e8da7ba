import torch

from overread.architectures.annotation_targets import annotation_targets
from overread.records import Batch

A, B, C, NONE = [1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]

NAMES = ("union", "intersection", "first", "mean")


def targets(labels, valid, classes=2):
    """Targets of samples given as lists of annotators of 2 x 3 pixels."""
    ids = torch.tensor(labels, dtype=torch.uint8).unflatten(-1, (2, 3))
    batch = Batch(images=torch.zeros(len(ids), 1, 2, 3), labels=ids, valid=torch.tensor(valid))
    found = annotation_targets(batch, classes)
    return {name: getattr(found, name).flatten(2).tolist() for name in NAMES}


def test_only_contours_of_those_who_annotated_count():
    # The first is empty, the third did not annotate: the second and the fourth count.
    found = targets([[NONE, A, C, B]], [[True, True, False, True]])
    assert found["union"] == [[[1, 1, 1, 1, 0, 0]]]
    assert found["intersection"] == [[[0, 1, 1, 0, 0, 0]]]
    assert found["first"] == [[A]]
    assert found["mean"] == [[[0.5, 1, 1, 0.5, 0, 0]]]


def test_one_contour_alone_stands_for_all():
    assert targets([[NONE, B, A]], [[True, True, False]]) == {name: [[B]] for name in NAMES}


def test_without_a_contour_all_targets_are_empty():
    for valid in ([True, True], [False, False]):
        assert targets([[NONE, NONE]], [valid]) == {name: [[NONE]] for name in NAMES}


def test_annotators_count_by_class_and_sample():
    first = [[1, 1, 2, 0, 0, 0], [0, 1, 0, 0, 0, 0]]  # the second has no class 2
    second = [[0, 0, 0, 0, 0, 0], [2, 2, 1, 0, 0, 0]]
    found = targets([first, second], [[True, True]] * 2, classes=3)
    assert found["union"] == [[[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]], [[0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]]
    assert found["intersection"] == [[[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]], found["union"][1]]
    assert found["first"] == [[[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]], found["union"][1]]
    assert found["mean"][0] == [[0.5, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]


def test_the_intersection_is_in_every_annotation_and_these_in_the_union():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(4, 5, 8, 8, generator=generator) < torch.rand(4, 5, 1, 1, generator=generator)).byte()
    batch = Batch(images=torch.zeros(4, 1, 8, 8), labels=labels, valid=torch.ones(4, 5, dtype=torch.bool))
    found = annotation_targets(batch, 2)
    assert labels.flatten(2).any(2).all()
    assert (found.intersection <= labels).all()
    assert (labels <= found.union).all()
    assert (found.intersection <= found.mean).all()
    assert (found.mean <= found.union).all()

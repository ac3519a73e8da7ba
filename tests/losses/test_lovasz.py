import itertools

import pytest
import torch

from overread.losses import lovasz_hinge


def per_map(z: list[float], y: list[float]) -> float:
    return lovasz_hinge(torch.tensor([[z]]), torch.tensor([[y]])).item()


def by_definition(z: list[float], y: list[int]) -> float:
    """The Lovász extension of the Jaccard loss of the misclassified set, one voxel after the other."""
    errors = [1 - a * (2 * b - 1) for a, b in zip(z, y, strict=True)]
    order = sorted(range(len(z)), key=lambda i: -errors[i])
    truth = {i for i, b in enumerate(y) if b}
    total, wrong, before = 0.0, set(), 0.0
    for i in order:
        wrong.add(i)
        after = 1 - len(truth - wrong) / len(truth | wrong)
        total += max(errors[i], 0.0) * (after - before)
        before = after
    return total


@pytest.mark.parametrize(
    ("z", "y", "expected"),
    [
        ([2.0, -2.0], [1.0, 0.0], 0.0),  # both beyond the margin
        ([-1.0, -3.0], [1.0, 0.0], 2.0),  # the only true voxel missed: J = 1 at error 2
        ([3.0, 1.0], [1.0, 0.0], 1.0),  # one false positive of error 2 beside one true: J = 1/2
        ([1.0, -1.0, -5.0], [0.0, 0.0, 0.0], 2.0),  # empty truth: the largest error
        ([0.0, 0.0], [0.5, 0.5], 1.0),  # undecided annotators: a constant
    ],
)
def test_by_hand(z, y, expected):
    assert per_map(z, y) == pytest.approx(expected)


def test_equals_the_definition_for_every_labelling():
    z = [0.3, -0.8, 1.7, -2.2]
    for y in itertools.product((0, 1), repeat=4):
        if any(y):
            assert per_map(z, [float(b) for b in y]) == pytest.approx(by_definition(z, list(y)))


def test_samples_and_maps_are_independent():
    z = torch.tensor([[[-1.0, -3.0], [3.0, 1.0]], [[2.0, -2.0], [2.0, -2.0]]])
    y = torch.tensor([1.0, 0.0]).expand(2, 2, 2)
    assert lovasz_hinge(z, y).tolist() == pytest.approx([(2.0 + 1.0) / 2, 0.0])


def test_the_gradient_is_that_of_the_formula():
    z = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    y = (torch.arange(120).reshape(2, 3, 4, 5) % 3 == 0).float()
    z.requires_grad_()
    lovasz_hinge(z, y).sum().backward()
    flat = z.detach().flatten(2)
    step = 1e-2
    for index in ((0, 1, 7), (1, 2, 13)):
        up, down = flat.clone(), flat.clone()
        up[index] += step
        down[index] -= step
        change = (lovasz_hinge(up, y.flatten(2)) - lovasz_hinge(down, y.flatten(2))).sum() / (2 * step)
        assert z.grad is not None
        assert z.grad.flatten(2)[index].item() == pytest.approx(change.item(), abs=1e-3)

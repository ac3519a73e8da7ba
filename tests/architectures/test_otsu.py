import numpy as np
import torch

from overread.architectures.otsu import FixedQuantiser, OtsuFilter, otsu_mask


def brute_force(values: np.ndarray) -> np.ndarray:
    """Try every threshold of one map: the first bin edge with the largest between-class variance."""
    counts, edges = np.histogram(values.ravel(), bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    best, threshold = -1.0, edges[1]
    for last in range(255):
        below, above = counts[: last + 1], counts[last + 1 :]
        if below.sum() and above.sum():
            m0 = (below * centres[: last + 1]).sum() / below.sum()
            m1 = (above * centres[last + 1 :]).sum() / above.sum()
            variance = below.sum() * above.sum() * (m0 - m1) ** 2
            if variance > best * (1 + 1e-12):
                best, threshold = variance, edges[last + 1]
    return values >= threshold


def test_by_hand():
    # Values 0, 0, 1, 9, 10: splitting 1 from 9 leaves means 1/3 and 9.5, 3 * 2 * 84.0; no other split comes near:
    # 0 | 1 gives 2 * 3 * 44.4, 9 | 10 gives 4 * 1 * 56.3.
    x = torch.tensor([0.0, 0, 1, 9, 10]).reshape(1, 1, 1, 5)
    assert otsu_mask(x).flatten().tolist() == [0, 0, 0, 1, 1]
    assert OtsuFilter()(x).flatten().tolist() == [0, 0, 0, 9, 10]


def test_against_trying_every_threshold():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 16, 12)) + 3.0 * (rng.random((3, 4, 16, 12)) < 0.3)
    x[1] = np.maximum(x[1], 0)
    x[2] **= 3
    x = x.astype(np.float32)
    expected = np.array([[brute_force(channel) for channel in sample] for sample in x])
    found = otsu_mask(torch.from_numpy(x)).numpy()
    assert 0.02 < expected.mean() < 0.9
    assert np.array_equal(found, expected)


def test_every_sample_and_channel_has_its_own_threshold():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) ** 2
    scaled = x * torch.tensor([1.0, 10.0, 0.01]).reshape(3, 1, 1) + torch.tensor([0.0, 7.0]).reshape(2, 1, 1, 1)
    alone = torch.stack([torch.cat([otsu_mask(m[None, None])[0] for m in sample]) for sample in x])
    assert torch.equal(otsu_mask(x), alone)
    assert (otsu_mask(scaled) != alone).float().mean() < 0.01  # but for rounding at the edges of bins


def test_a_constant_map_is_kept():
    x = torch.cat([torch.full((1, 1, 2, 2), 5.0), torch.tensor([0.0, 0, 0, 1]).reshape(1, 1, 2, 2)], 1)
    assert otsu_mask(x).tolist() == [[[[1, 1], [1, 1]], [[0, 0], [0, 1]]]]
    assert otsu_mask(torch.zeros(1, 1, 3, 3)).min() == 1


def test_gradients_pass_where_the_mask_is_one_and_not_through_it():
    x = torch.tensor([0.0, 0, 1, 9, 10]).reshape(1, 1, 1, 5).requires_grad_()
    OtsuFilter()(x).sum().backward()
    assert x.grad.flatten().tolist() == [0, 0, 0, 1, 1]
    assert not otsu_mask(x).requires_grad


def test_the_fixed_quantiser_of_v1():
    x = torch.tensor([-3.0, -0.6, -0.4, 0.0, 0.4, 0.6, 9.0]).reshape(1, 1, 1, 7).requires_grad_()
    found = FixedQuantiser()(x)
    assert found.flatten().tolist() == [0, 0, 128, 128, 128, 255, 255]
    found.sum().backward()
    assert x.grad.abs().max() == 0
